"""HTTP with an endpoint: connections, and how responses, errors and headers are read."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from indexer.llm.errors import TransientError
from p4r_qdrant.settings import LLMSettings

MAX_RESPONSE_BYTES = 4 << 20
"""Bytes that are read of one response; a larger one is an error."""
CONNECTIONS_A_POOL = 16
NO_COMPLETION = "something other than a chat completion"


class TooLargeError(openai.OpenAIError):
    """A response is larger than allowed. (openai passes on only exceptions of its own kind.)"""


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: float) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._most:
                raise TooLargeError
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class Transport(httpx2.AsyncBaseTransport):
    """Limits the size of responses, and takes several small connection pools in turn.

    The work of a pool for each call grows with its connections: one pool of 64 or 256 takes 12 %
    more CPU per call. The caller limits the number of connections.
    """

    def __init__(self, settings: LLMSettings, most: float = MAX_RESPONSE_BYTES) -> None:
        self._most = most
        parts = urlsplit(settings.base_url)
        proxied = not settings.is_local and not proxy_bypass(parts.netloc)
        options: dict[str, Any] = {
            "verify": httpx2.create_ssl_context(),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            "proxy": getproxies().get(parts.scheme) if proxied else None,
        }
        count = math.ceil(settings.concurrency / CONNECTIONS_A_POOL)
        self._pools = [httpx2.AsyncHTTPTransport(**options) for _ in range(count)]
        self._turns = itertools.cycle(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request through the next pool."""
        response = await next(self._turns).handle_async_request(request)
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _BoundedStream(stream, self._most)
        return response

    async def aclose(self) -> None:
        """Close all pools."""
        for pool in self._pools:
            await pool.aclose()


@dataclass(frozen=True, slots=True)
class Completion:
    """The fields of a chat completion that are used."""

    text: str
    finish_reason: str
    refusal: str
    tokens: tuple[int, int] | None
    """(prompt, completion) tokens; None if the endpoint does not report them."""


def read_completion(body: bytes) -> Completion:
    """Parse a response; raises TransientError if it is no chat completion (from a proxy, say)."""
    try:
        data = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError):
        what = "an empty body" if not body.strip() else NO_COMPLETION
        raise TransientError(f"the endpoint sent {what}") from None
    return completion_of(data)


def completion_of(data: Any) -> Completion:
    """Read parsed JSON; raises TransientError if it is no chat completion."""
    try:
        choice = data["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        raise TransientError(f"the endpoint sent {NO_COMPLETION}") from None
    return Completion(
        content if isinstance(content, str) else "",
        finish_reason if isinstance(finish_reason, str) else "",
        refusal if isinstance(refusal, str) else "",
        _counted(data.get("usage")),
    )


def _counted(usage: Any) -> tuple[int, int] | None:
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return max(prompt, 0), max(completion, 0)
    return None


def error_message(body: object) -> tuple[str, str]:
    """(the error message, the message with its codes) of an error in OpenAI's form, FastAPI's
    form or plain text.
    """
    if not isinstance(body, dict):
        return str(body or ""), str(body or "")
    message = str(body.get("message") or body.get("detail") or "")
    codes = (str(body.get(name) or "") for name in ("code", "type", "param"))
    return message, " ".join((message, *codes))
