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

from indexer.llm.errors import ErrorBody, TransientError
from indexer.llm.options import Token
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
        self._only_api_key = settings.key_headers.keys() == {"api-key"}
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
        if self._only_api_key:  # openai always sends the key as a token, too, which Azure refuses
            del request.headers["Authorization"]
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
    """What a chat completion says.

    texts: where an answer may stand: the content, then the arguments of tool calls, then what the
    endpoint has parsed.
    thought: the model's thought, where the endpoint keeps it apart from the content.
    finish_reason: as the endpoint names it; `cut_off` and `filtered` read it.
    tokens: (prompt, completion) tokens; None if the endpoint does not report them.
    thought_tokens: the part of the completion that was thought, if it is reported.
    logprobs: the tokens of the content with their alternatives; None if there are none.
    """

    texts: tuple[str, ...]
    thought: str
    finish_reason: str
    refusal: str
    tokens: tuple[int, int] | None
    thought_tokens: int
    logprobs: tuple[Token, ...] | None = None

    @property
    def text(self) -> str:
        """The first text that is not blank; "" if there is none."""
        return next((text for text in self.texts if text.strip()), "")

    @property
    def cut_off(self) -> bool:
        """The limit of tokens ended the answer."""
        return self.finish_reason.lower() in _CUT_OFF

    @property
    def filtered(self) -> bool:
        """A content filter ended the answer."""
        return self.finish_reason.lower() in _FILTERED


_CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "incomplete"})
_FILTERED = frozenset(
    {"content_filter", "safety", "sensitive", "recitation", "blocklist", "prohibited_content"}
)
_BROKEN_OFF = frozenset({"error", "insufficient_system_resource", "abort"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_EVENTS = ("data:", "event:", "id:", ":")
_PART_TEXTS = ("thinking", "reasoning", "text", "summary")


def read_json(body: bytes) -> Any:
    """Parse a response. Some endpoints stream it although the request asks for no stream.

    Raises TransientError if it is no JSON (from a proxy, say).
    """
    text = _decoded(body)
    try:
        return _of_events(text) if text.startswith(_EVENTS) else json.loads(text)
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise TransientError(f"the endpoint sent {_named(body)}") from None


def _decoded(body: bytes) -> str:
    """The text of a body: UTF-8, or the Windows encoding where no letter of it is UTF-8."""
    text = body.decode("utf-8-sig", errors="replace")
    if "\ufffd" in text and text.replace("\ufffd", "").isascii():
        return body.decode("cp1252", errors="replace")
    return text


def _of_events(text: str) -> Any:
    """The chat completion whose parts are streamed. Raises TransientError if it has no end."""
    message: dict[str, str] = {}
    reason, usage = None, None
    for line in text.splitlines():
        part = line.removeprefix("data:").strip()
        if not line.startswith("data:") or part in ("", "[DONE]"):
            continue
        event = json.loads(part)
        if event.get("error"):
            return event
        usage = event.get("usage") or usage
        for choice in (event.get("choices") or ())[:1]:
            reason = choice.get("finish_reason") or reason
            for name, piece in (choice.get("delta") or choice.get("message") or {}).items():
                if isinstance(piece, str):
                    message[name] = message.get(name, "") + piece
    if reason is None:
        raise TransientError("the endpoint broke its stream of events off")
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def _named(body: bytes) -> str:
    """What a body is that is no JSON."""
    start = body.lstrip()[:16].lower()
    if not start:
        return "an empty body"
    return f"a web page, {NO_COMPLETION}" if start.startswith(b"<") else NO_COMPLETION


def completion_of(data: Any) -> Completion:
    """Read parsed JSON; raises TransientError if it is no chat completion."""
    try:
        choice = data["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        content, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
        calls = [*(message.get("tool_calls") or ()), {"function": message.get("function_call")}]
        arguments = [(call.get("function") or {}).get("arguments") for call in calls]
        usage = data.get("usage")
    except (LookupError, TypeError, AttributeError):
        raise TransientError(f"the endpoint sent {NO_COMPLETION}") from None
    finish_reason = finish_reason if isinstance(finish_reason, str) else ""
    if finish_reason in _BROKEN_OFF:
        raise TransientError(f"the endpoint broke the answer off: {finish_reason}")
    text, thought = _parts(content)
    beside = ("".join(_parts(message.get(name))) for name in _THOUGHTS)
    return Completion(
        (text, *("".join(_parts(one)) for one in (*arguments, message.get("parsed")))),
        next(filter(None, (thought, *beside)), ""),
        finish_reason,
        refusal if isinstance(refusal, str) else "",
        _counted(usage),
        _thought_tokens(usage),
        _logprobs(choice.get("logprobs")),
    )


def _logprobs(given: Any) -> tuple[Token, ...] | None:
    """The tokens of a choice; None where the endpoint gives none, or not in OpenAI's form."""
    if not isinstance(given, dict) or not isinstance(given.get("content"), list):
        return None
    tokens = []
    for one in given["content"]:
        match one:
            case {"token": str(text), "logprob": int() | float() as own}:
                others = one.get("top_logprobs")
                pairs = others if isinstance(others, list) else []
                alternatives = {text: float(own)}
                for pair in pairs:
                    match pair:
                        case {"token": str(other), "logprob": int() | float() as logprob}:
                            alternatives[other] = float(logprob)
                tokens.append(Token(text, alternatives))
            case _:
                return None
    return tuple(tokens)


def _parts(content: Any) -> tuple[str, str]:
    """(text, thought) of a content: a string, a list of parts, or an object."""
    if isinstance(content, list):
        both = [_parts(part) for part in content]
        return "".join(text for text, _ in both), "".join(thought for _, thought in both)
    if not isinstance(content, dict):
        return content if isinstance(content, str) else "", ""
    kind = str(content.get("type") or "")
    if "think" in kind or "reason" in kind:
        return "", "".join(part for name in _PART_TEXTS for part in _parts(content.get(name)))
    text = content.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else json.dumps(content, ensure_ascii=False), ""


def _counted(usage: Any) -> tuple[int, int] | None:
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return max(prompt, 0), max(completion, 0)
    return None


def _thought_tokens(usage: Any) -> int:
    match usage:
        case {"completion_tokens_details": {"reasoning_tokens": int(tokens)}}:
            return tokens
        case {"reasoning_tokens": int(tokens)}:
            return tokens
    return 0


_CODES = ("code", "type", "param", "status")
_WAITS = ("retryDelay", "retry_after", "retry_after_seconds", "retryAfter")


def error_body(body: object) -> ErrorBody:
    """Read the body of an error response, as JSON or as text."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
        body = body["error"]
    if not isinstance(body, dict):
        return ErrorBody(str(body or ""), "", None)
    named = (body.get(name) for name in ("message", "detail", "msg", "error_message", "error_msg"))
    message = next((one for one in named if one), None)
    if message is None:
        message = body
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    match body.get("metadata"):
        case {"raw": str(raw)}:  # a router repeats what its provider said
            text = f"{text}: {raw}"
    codes = " ".join(str(body.get(name) or "") for name in _CODES)
    return ErrorBody(text if body else "", codes, _named_wait_s(body))


def _named_wait_s(body: dict[str, Any]) -> float | None:
    """The seconds to wait that an error names in a field of its own or of its details."""
    details = body.get("details")
    for one in (body, *(details if isinstance(details, list) else ())):
        for value in (one.get(name) for name in _WAITS) if isinstance(one, dict) else ():
            try:
                seconds = float(str(value).removesuffix("s"))
            except ValueError:
                continue
            if 0 <= seconds < math.inf:
                return seconds
    return None
