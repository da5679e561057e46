"""HTTP: the connections to an endpoint, and how its answers, complaints and headers are read."""

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
"""What is read of one response; the rest of a larger one is never read."""
CONNECTIONS_A_POOL = 16
NO_COMPLETION = "something else than a chat completion"


class TooLargeError(openai.OpenAIError):
    """More than MAX_RESPONSE_BYTES. openai hands exceptions of its own kind through."""


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
    """Bounded responses, errors included, over several small connection pools taken in turn.

    What a pool does for each call grows with its connections: with one pool for 64 or 256 a call
    took 12 % more CPU. How many connections there are is bounded by who uses this.
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
        """Through the next pool."""
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
    """The part of a chat completion that matters here."""

    text: str
    finish_reason: str
    refusal: str
    tokens: tuple[int, int] | None
    """In and out; not every endpoint counts."""


def read_completion(body: bytes) -> Completion:
    """Raises TransientError where the body is no chat completion: a proxy has answered."""
    try:
        data = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError):
        what = "an empty body" if not body.strip() else NO_COMPLETION
        raise TransientError(f"the endpoint sent {what}") from None
    return completion_of(data)


def completion_of(data: Any) -> Completion:
    """Raises TransientError where this JSON is no chat completion."""
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


def complaint_of(body: object) -> tuple[str, str]:
    """(what the endpoint says, that with its codes), be it OpenAI's form, FastAPI's or text."""
    if not isinstance(body, dict):
        return str(body or ""), str(body or "")
    message = str(body.get("message") or body.get("detail") or "")
    codes = (str(body.get(name) or "") for name in ("code", "type", "param"))
    return message, " ".join((message, *codes))
