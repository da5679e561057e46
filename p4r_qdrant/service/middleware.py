"""Around every request: request id, size and time limits of the body, duration, log line."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p4r_qdrant.service import logs, problems
from p4r_qdrant.service.bodies import too_large
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.paths import QUIET
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.settings import ServiceSettings

if TYPE_CHECKING:
    from p4r_qdrant.service.tracing import Tracing

_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")


_OF_TENANT = re.compile(r"/tenants/([^/]*)((?!/studio(?:/|$))/.*)?", re.DOTALL)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


LINGER_S = 5
"""Seconds that the rest of a body is taken after an early answer, and dropped: a connection that
is closed while the caller still sends is reset, and the caller never reads why."""

LINGER_BYTES = 256 << 20
"""Bytes of such a rest."""


class _Incoming:
    """The body of a request while it arrives."""

    def __init__(self, scope: Scope, receive: Receive, settings: ServiceSettings) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.declared = int(length) if length.isdigit() else 0
        self.ended = not self.declared and b"transfer-encoding" not in headers
        self._is_asked_for = b"expect" not in headers
        self._receive = receive
        self._settings = settings
        self._size = 0
        self._until = asyncio.get_running_loop().time() + settings.receive_timeout_s

    async def take(self) -> Message:
        """The next message. Raises HTTPException (408, 413)."""
        if self.ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body did not arrive within {self._settings.receive_timeout_s:g} seconds "
                "(P4R_SERVICE__RECEIVE_TIMEOUT_S); send it faster, or send less",
            ) from None
        if self._size > self._settings.max_body_bytes:
            raise HTTPException(413, self.too_large)
        return message

    async def drop(self) -> None:
        """Take the rest and forget it, as far as it comes soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self._is_asked_for and not self.ended and self._size < LINGER_BYTES:
                    await self._next()

    async def _next(self) -> Message:
        self._is_asked_for = True
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return message

    @property
    def too_large(self) -> str:
        """What a caller is told."""
        return too_large(self._settings.max_body_bytes)


class Requests:
    """The one middleware, in plain ASGI.

    Routes are matched on the path as it was sent: a slash inside an id stays `%2F` until the
    route decodes it. A slash at the end does not count, nor whether a proxy stripped the root path.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        settings: ServiceSettings,
        tracing: Tracing | None = None,
        *,
        has_tenants: bool = False,
    ) -> None:
        """has_tenants: whether a path can begin with /tenants/NAME."""
        self._app = app
        self._has_tenants = has_tenants
        self._tracing = tracing
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        scope["root_path"] = self._settings.root_path
        if f"{path}/".startswith(f"{scope['root_path']}/"):  # a proxy that does not strip it
            path = path.removeprefix(scope["root_path"])
        state: dict[str, Any] = scope.setdefault("state", {})
        state["tenant"], path = self._tenant_of(path)
        scope["path"] = scope["root_path"] + (path.removesuffix("/") or "/")
        state["request_id"] = request_id
        incoming = _Incoming(scope, receive, self._settings)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode())]
                if not incoming.ended:
                    own.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *own]
            elif not incoming.ended and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await incoming.drop()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        crashed = False
        try:
            if incoming.declared > self._settings.max_body_bytes:
                problem = ProblemError(413, "too_large", incoming.too_large)
                refusal = problems.answer(request_id, problem)
                await refusal(scope, receive, answer)
            else:
                await self._app(scope, incoming.take, answer)
        except Exception:
            crashed = True
            if status != 500:  # an answer has begun: only the connection can be broken
                raise
            failed = ProblemError(500, "internal_error", "the service failed; its log says more")
            await problems.answer(request_id, failed)(scope, receive, answer)
        finally:
            self._log(scope, status, time.perf_counter() - start, crashed=crashed)

    def _tenant_of(self, path: str) -> tuple[str | None, str]:
        """The tenant that a path names, and the path without it; the studio is of one tenant."""
        match = _OF_TENANT.fullmatch(path) if self._has_tenants else None
        return (match[1], match[2] or "/") if match else (None, path)

    def _log(self, scope: Scope, status: int, seconds: float, *, crashed: bool) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, status).observe(seconds)
        if route in QUIET and status < 400:
            return
        state = scope["state"]
        fields = {
            "request_id": state["request_id"],
            "method": method,
            "route": route,  # never the path: it holds ids
            "status": status,
            "ms": round(1000 * seconds, 2),
            **state.get("log_fields", {}),
        }
        if self._tracing and route not in QUIET:
            fields["trace_id"] = self._tracing.trace_id
        if "problem" in state:
            fields["problem"] = state["problem"]
        level = logging.ERROR if status >= 500 else logging.INFO
        logs.requests.log(level, "request", exc_info=crashed, extra={"fields": fields})
