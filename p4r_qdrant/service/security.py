"""Access control: a reading key, an admin key, or anonymous access on this machine."""

from __future__ import annotations

import hmac
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from p4r_qdrant.errors import SettingsError
from p4r_qdrant.service.problems import ProblemError, unknown_tenant
from p4r_qdrant.settings import ServiceSettings

_BEARER = HTTPBearer(auto_error=False, description="P4R_SERVICE__API_KEY or __ADMIN_KEY")
Role = Literal["reader", "reviewer", "admin"]
"""What a key allows: to read the catalogue and rerank; to decide on personas in the studio too; or
everything."""
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def check_exposure(settings: ServiceSettings) -> None:
    """Raise SettingsError if the settings would leave the service open."""
    keys = (
        settings.api_key
        or settings.reviewer_key
        or settings.admin_key
        or settings.tenant_keys
        or settings.tenant_admin_keys
    )
    if keys and settings.allow_anonymous:
        raise SettingsError(
            "API keys are configured, but P4R_SERVICE__ALLOW_ANONYMOUS=true allows access without "
            "one: unset one of them"
        )
    if not keys and not settings.allow_anonymous:
        raise SettingsError(
            "No API key is configured: set P4R_SERVICE__ADMIN_KEY (and P4R_SERVICE__API_KEY for "
            "clients that only rerank), for example to the output of `openssl rand -hex 32`; or "
            "set P4R_SERVICE__ALLOW_ANONYMOUS=true to serve this machine only"
        )
    if not keys and not settings.is_local:
        raise SettingsError(
            f"No API key is configured, so the service listens on this machine only, not on "
            f"{settings.host}: set P4R_SERVICE__ADMIN_KEY, or P4R_SERVICE__HOST=127.0.0.1"
        )


_NAMES = {"reader": "reading", "reviewer": "reviewer"}
_ROLES: tuple[Role, ...] = ("admin", "reviewer", "reader")


class Access:
    """Checks keys, in constant time."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._anonymous = settings.allow_anonymous
        self._tells_because = settings.tell_because
        self._reader = _bytes(settings.api_key)
        self._reviewer = _bytes(settings.reviewer_key)
        self._admin = _bytes(settings.admin_key)
        self._bound: list[tuple[bytes, str, Role]] = [
            (key.encode(), tenant, role)
            for role, pairs in settings.bound_keys.items()
            for tenant, key in pairs
        ]

    def role(self, key: str) -> Role | None:
        """What a key of all tenants allows; None if the service does not know it."""
        given = key.encode(errors="replace")
        keys = {"admin": self._admin, "reviewer": self._reviewer, "reader": self._reader}
        found: list[Role] = [one for one in _ROLES if _same(given, keys[one])]
        return found[0] if found else None

    def tells_because(self, credentials: HTTPAuthorizationCredentials | None) -> bool:
        """Whether a caller is told which items of a stored user's history made a score."""
        given = _given(credentials)
        is_admin = self._anonymous or _same(given, self._admin) or self._of(given)[1] == "admin"
        return is_admin or self._tells_because

    def _of(self, given: bytes) -> tuple[str, Role | None]:
        """The tenant to whom a key is bound, and what it allows there."""
        found = [(tenant, role) for key, tenant, role in self._bound if _same(given, key)]
        return found[0] if found else ("", None)

    def check(
        self,
        request: Request,
        credentials: HTTPAuthorizationCredentials | None,
        *,
        admin: bool,
        of_all: bool = False,
    ) -> None:
        """Raise ProblemError (401, 403, 404) if the key does not allow the request.

        A key that is bound to a tenant sets the tenant of the request. of_all: the route tells
        something of all tenants.
        """
        if self._anonymous:
            return
        role = self.role(credentials.credentials if credentials else "")
        if role is None and self._bound:
            bound, role = self._of(_given(credentials))
            if role is not None:
                if request.state.tenant not in (None, bound):
                    raise unknown_tenant()
                request.state.tenant = bound
                if of_all:
                    raise ProblemError(
                        403, "forbidden", "this route needs a key that is bound to no tenant"
                    )
        if role is None:
            what = "unknown" if credentials else "missing"
            raise ProblemError(
                401,
                "unauthenticated",
                f"the API key is {what}; send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if admin and role != "admin":
            raise ProblemError(
                403, "forbidden", f"this route needs the admin key, not the {_NAMES[role]} key"
            )


async def reader(request: Request, credentials: Credentials) -> None:
    """Dependency of routes that accept either key."""
    request.app.state.access.check(request, credentials, admin=False)


async def operator(request: Request, credentials: Credentials) -> None:
    """Dependency of routes that tell something of all tenants: keys of single ones do not do."""
    request.app.state.access.check(request, credentials, admin=False, of_all=True)


async def admin(request: Request, credentials: Credentials) -> None:
    """Dependency of routes that accept the admin key only."""
    request.app.state.access.check(request, credentials, admin=True)


async def tells_because(request: Request, credentials: Credentials) -> bool:
    """Dependency of routes that accept either key; see `Access.tells_because`.

    One for both, because FastAPI solves each dependency anew for every request.
    """
    access: Access = request.app.state.access
    access.check(request, credentials, admin=False)
    return access.tells_because(credentials)


TellsBecause = Annotated[bool, Depends(tells_because)]
"""The first parameter of a route: the key is checked before the others are read."""


def _given(credentials: HTTPAuthorizationCredentials | None) -> bytes:
    return credentials.credentials.encode() if credentials else b""


def _bytes(key: SecretStr | None) -> bytes | None:
    return key.get_secret_value().encode() if key else None


def _same(given: bytes, key: bytes | None) -> bool:
    return key is not None and hmac.compare_digest(given, key)
