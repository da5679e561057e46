"""Who may ask: a reading key, an admin key, or anybody on this machine."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from p4r_qdrant.errors import SettingsError
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.settings import ServiceSettings

_BEARER = HTTPBearer(auto_error=False, description="P4R_SERVICE__API_KEY or __ADMIN_KEY")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def check_exposure(settings: ServiceSettings) -> None:
    """Raise SettingsError where the service would be open to those it should not be open to."""
    keys = settings.api_key or settings.admin_key
    if keys and settings.allow_anonymous:
        raise SettingsError(
            "there are keys, and P4R_SERVICE__ALLOW_ANONYMOUS=true asks for none: unset one of them"
        )
    if not keys and not settings.allow_anonymous:
        raise SettingsError(
            "nobody could be told from a stranger: set P4R_SERVICE__ADMIN_KEY (and "
            "P4R_SERVICE__API_KEY for those who only rerank), for example to the output of "
            "openssl rand -hex 32, or P4R_SERVICE__ALLOW_ANONYMOUS=true on this machine alone"
        )
    if not keys and not settings.is_local:
        raise SettingsError(
            f"without keys the service listens on this machine alone, not on {settings.host}: "
            "set P4R_SERVICE__ADMIN_KEY, or P4R_SERVICE__HOST=127.0.0.1"
        )


class Access:
    """The keys of one service; compared in constant time."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._anonymous = settings.allow_anonymous
        self._reader = _bytes(settings.api_key)
        self._admin = _bytes(settings.admin_key)

    def check(self, credentials: HTTPAuthorizationCredentials | None, *, admin: bool) -> None:
        """Raise ProblemError (401, 403) unless the caller may."""
        if self._anonymous:
            return
        given = credentials.credentials.encode() if credentials else b""
        is_admin = _same(given, self._admin)
        is_reader = _same(given, self._reader)
        if not (is_admin or is_reader):
            what = "is not known" if credentials else "is missing"
            raise ProblemError(
                401,
                "unauthenticated",
                f"the key {what}; send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if admin and not is_admin:
            raise ProblemError(403, "forbidden", "this needs the admin key, not the reading key")


async def reader(request: Request, credentials: Credentials) -> None:
    """The route may be used with either key."""
    request.app.state.access.check(credentials, admin=False)


async def admin(request: Request, credentials: Credentials) -> None:
    """The route may be used with the admin key alone."""
    request.app.state.access.check(credentials, admin=True)


def _bytes(key: SecretStr | None) -> bytes | None:
    return key.get_secret_value().encode() if key else None


def _same(given: bytes, key: bytes | None) -> bool:
    return key is not None and hmac.compare_digest(given, key)
