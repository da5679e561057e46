"""Sessions of the studio: signed cookies that expire, and the tokens of its forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeTimedSerializer

from p4r_qdrant.service.security import Role
from p4r_qdrant.settings import ServiceSettings

SESSION_S = 8 * 3600
"""Seconds until a session ends."""

COOKIE = "p4r_studio"


@dataclass(frozen=True, slots=True)
class Session:
    """A visitor. role: None before the login. name: recorded with the decisions of a reviewer."""

    id: str
    role: Role | None = None
    name: str = ""

    @classmethod
    def new(cls, role: Role | None = None) -> Session:
        """A session with a new random id."""
        return cls(secrets.token_urlsafe(16), role)


class Sessions:
    """Signs sessions with a secret made of the service's keys: a changed key ends all sessions.

    Nothing is stored here, so several processes with the same keys share their sessions. Without an
    admin key the secret is random, or the holder of the reading key could sign any role.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        keys = [secrets.token_hex(32)]
        if settings.admin_key:
            given = (settings.api_key, settings.reviewer_key, settings.admin_key)
            keys = [one.get_secret_value() for one in given if one]
        secret = hashlib.sha256("\0".join(["p4r studio", *keys]).encode()).digest()
        self._cookies = URLSafeTimedSerializer(secret, salt="session")
        self._secret = secret

    def signed(self, session: Session) -> str:
        """The value of the cookie."""
        return str(self._cookies.dumps([session.id, session.role, session.name]))

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if there is none, or if it is wrong or too old."""
        try:
            return Session(*self._cookies.loads(cookie or "", max_age=SESSION_S))
        except (BadSignature, TypeError):
            return None

    def token(self, session: Session) -> str:
        """The token that each form of a session carries, so that no other site can send one."""
        return hmac.new(self._secret, f"form {session.id}".encode(), "sha256").hexdigest()

    def is_own(self, session: Session, token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.token(session).encode(), token.encode())
