"""Around every request: request id, size limit, duration, log line."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p4r_qdrant.service import logs, problems
from p4r_qdrant.service.metrics import Metrics

if TYPE_CHECKING:
    from p4r_qdrant.service.tracing import Tracing

from p4r_qdrant.service.paths import QUIET

_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Requests:
    """The one middleware, in plain ASGI.

    Routes are matched on the path as it was sent: a slash inside an id stays `%2F` until the
    route decodes it. A slash at the end does not count.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, max_body_bytes: int, tracing: Tracing | None = None
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._metrics = metrics
        self._most = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        scope["path"] = path.removesuffix("/") or "/"
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        crashed = False
        try:
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self._most:
                refusal = problems.answer(request_id, 413, "too_large", self._too_large())
                await refusal(scope, receive, answer)
            else:
                await self._app(scope, self._bounded(receive), answer)
        except Exception:
            crashed = True
            if status != 500:  # an answer has begun: only the connection can be broken
                raise
            sorry = problems.answer(
                request_id,
                500,
                "internal_error",
                "the service failed; its log says more",
            )
            await sorry(scope, receive, answer)
        finally:
            self._log(scope, status, time.perf_counter() - start, crashed=crashed)

    def _bounded(self, receive: Receive) -> Receive:
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(413, self._too_large())
            return message

        return bounded

    def _too_large(self) -> str:
        return f"the body has more than {self._most} bytes (P4R_SERVICE__MAX_BODY_BYTES); send less"

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
