"""Limits of connections that uvicorn does not have: their number, and size and time of a head."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from p4r_qdrant.schemas.base import ErrorBody, Problem
from p4r_qdrant.settings import ServiceSettings

_PER_BODY_BYTE = 16
"""Bytes of chunk sizes and the like that may come with one byte of a body."""

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Connection(HttpToolsProtocol):
    """A connection within limits.

    If there are too many, the one that has been without a request for longest is closed: who only
    holds connections keeps nobody out, also not by a body without an end that is refused already.
    If all have requests, the one whose body has taken longest to arrive is closed. If all bodies
    have arrived, the new one gets 503.

    When the process is asked to end, an idle connection stays for `linger_s` seconds: a request
    may be on its way. Each answer from then on closes its connection.
    """

    limits: ServiceSettings
    linger_s: float
    connections: set[Any]

    _since = 0.0
    _outside = 0
    _body = 0
    _timer: asyncio.TimerHandle | None = None
    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) <= self.limits.max_connections:
            return
        late = [one for one in self.connections if one.waits_for_caller and one is not self]
        if late:
            min(late, key=lambda one: (not one.can_be_closed, one.waits_since)).transport.abort()
            return
        self.refuse(503, "busy", "too many connections have requests; try again later")

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def can_be_closed(self) -> bool:
        """Whether nobody waits for an answer: it began before the body's end, so it refuses it."""
        return self.is_idle or (self.cycle.response_started and self.cycle.more_body)

    @property
    def waits_for_caller(self) -> bool:
        """Whether the caller has to send something: a request, or the rest of its body."""
        return self.can_be_closed or self.cycle.more_body

    @property
    def waits_since(self) -> float:
        """Since when it waits for a request, or for its body; a time of the event loop."""
        return self._since

    def data_received(self, data: bytes) -> None:
        """Read on, within the limits of a head and of what stands around a body."""
        body = self._body
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._outside += len(data) - max(0, self._body - body)
        if self._outside > self.limits.max_head_bytes + _PER_BODY_BYTE * self._body:
            self.refuse(
                431,
                "too_large",
                f"path and headers have more than {self.limits.max_head_bytes} bytes "
                "(P4R_SERVICE__MAX_HEAD_BYTES); send less",
            )
        elif self.is_idle and self._timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._outside = self._body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._since = self.loop.time()
        self._stop_timer()
        super().on_headers_complete()
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection after its request, and after one that may be on its way."""
        self._is_ending = True
        if self.is_idle and self.linger_s:
            self.loop.call_later(self.linger_s, super().shutdown)
        else:
            super().shutdown()

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        self._body += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The connection is idle."""
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        del msg
        self.refuse(400, "no_http", "this is no valid HTTP request")

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer, and close."""
        body = to_json(ErrorBody(error=Problem(code=code, message=message), request_id=""))
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _await_head(self) -> None:
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.limits.receive_timeout_s, self._late)

    def _late(self) -> None:
        self.refuse(408, "timeout", "no request came in time; send it faster")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def within(settings: ServiceSettings, linger_s: float = 0.0) -> type[Connection]:
    """The class of connections with these limits."""
    own = {"limits": settings, "linger_s": linger_s}
    return type("LimitedConnection", (Connection,), own)
