"""A real HTTP server that speaks the chat-completions protocol and fails on demand.

    with ScriptedLLM(says({"x": 1})) as llm:      # always that; or a function Call -> Reply
        llm.replies += [fails(503), HANG]          # first these, one call each
        ... llm.url ... llm.calls ...

Written over asyncio streams, in its own thread: it resets connections, stops half way, and answers
hundreds of calls a second beside the client under test.
`python -m devtools.scripted_llm` runs one alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Call:
    """One request as it came in; `started` in seconds of `time.monotonic`."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    path: str
    started: float
    method: str = "POST"
    raw: bytes = b""

    @property
    def form(self) -> str:
        """What response_format asks for: json_schema, json_object or text."""
        return str(self.body.get("response_format", {}).get("type", "text"))

    @property
    def step(self) -> str:
        """The name of the JSON schema, "" where there is none."""
        return str(self.body.get("response_format", {}).get("json_schema", {}).get("name", ""))

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        """The first message of the user: the prompt itself."""
        return str(next(m["content"] for m in self.body["messages"] if m["role"] == "user"))

    @property
    def last(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Reply:
    """One answer. `body` is sent instead of a completion; `delay_s` before anything is sent.

    `message`: further fields of the completion's message, such as its reasoning.
    """

    content: Any = None
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: tuple[int, int] | None = (100, 20)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    after: int = 0
    """Sent once so many completions have gone out."""
    message: Mapping[str, Any] = field(default_factory=dict)
    tokens: Sequence[tuple[str, Mapping[str, float]]] | None = None
    """The tokens of the content, each with the probabilities of tokens in its place; sent as
    log-probabilities to a call that asks for them."""
    cut: str = ""
    """"reset": the connection is reset; "hang": silence; "half": reset in the middle of the body;
    "drip": one byte every 50 ms."""

    def slowly(self, delay_s: float) -> Reply:
        return replace(self, delay_s=delay_s)


def says(content: object, **more: Any) -> Reply:
    """An answer with this content: text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return Reply(text, **more)


def fails(
    status: int, message: str = "scripted failure", *, code: str | None = None, **headers: str
) -> Reply:
    """An error in OpenAI's form; `retry_after="2"` becomes the header Retry-After."""
    error = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=json.dumps(error).encode())


HANG = Reply(cut="hang")
RESET = Reply(cut="reset")
HALF = Reply("{}", cut="half")
EMPTY_BODY = Reply(body=b"")
NO_JSON = Reply(body=b"<html>upstream is busy</html>")
OTHER_JSON = Reply(body=b'{"choices": "none"}')
NO_CHOICES = Reply(body=b'{"choices": []}')
HUGE = Reply("x" * (5 << 20))
TRUNCATED = Reply('{"x": ', finish_reason="length")
REFUSED = Reply(None, refusal="I cannot help with that.")
FILTERED = Reply("", finish_reason="content_filter")

Script = Reply | Callable[[Call], Reply]


class ScriptedLLM:
    """The server; a context manager. `slots` calls are worked on at a time, `latency_s` each."""

    def __init__(
        self,
        script: Script = Reply("{}"),
        *,
        replies: Iterable[Reply] = (),
        rejects: Iterable[str] = (),
        slots: int = 10_000,
        latency_s: float = 0.0,
    ) -> None:
        self.script = script
        self.replies = deque(replies)
        self.rejects = set(rejects)
        """Forms ("json_schema", "json_object") and parameters ("max_tokens") it does not know."""
        self.calls: list[Call] = []
        self.answered = 0
        """Completions that went out whole."""
        self.busiest = 0
        """The most calls that were open at once."""
        self.url = ""
        self._latency_s = latency_s
        self._slots = asyncio.Semaphore(slots)
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while call := await _read(reader):
                self._open += 1
                self.busiest = max(self.busiest, self._open)
                try:
                    async with self._slots:
                        self.calls.append(call)
                        if not await self._answer(call, writer):
                            return
                finally:
                    self._open -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        """Send what the script says; False where the connection is at its end."""
        reply = self._reply(call)
        if reply.cut == "hang":
            await asyncio.sleep(3600)
        if delay := self._latency_s + reply.delay_s:
            await asyncio.sleep(delay)
        while self.answered < reply.after:
            await asyncio.sleep(0.005)
        if reply.cut == "reset":
            _reset(writer)
            return False
        body = completion(call, reply) if reply.body is None else reply.body
        head = [f"HTTP/1.1 {reply.status} X", "content-type: application/json"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        head += [f"content-length: {len(body)}", "", ""]
        writer.write("\r\n".join(head).encode())
        if reply.cut == "half":
            writer.write(body[: len(body) // 2])
            await writer.drain()
            _reset(writer)
            return False
        if reply.cut == "drip":
            for byte in body:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
        else:
            writer.write(body)
        await writer.drain()
        self.answered += reply.status == 200
        return True

    def _reply(self, call: Call) -> Reply:
        return self._rejection(call) or self._next(call)

    def _next(self, call: Call) -> Reply:
        if self.replies:
            return self.replies.popleft()
        return self.script if isinstance(self.script, Reply) else self.script(call)

    def _rejection(self, call: Call) -> Reply | None:
        if call.form in self.rejects:
            return fails(400, f"This response_format type {call.form} is unavailable now")
        for name in self.rejects & call.body.keys():
            return fails(400, f"Unsupported parameter: '{name}' is not supported with this model.")
        return None


async def _read(reader: asyncio.StreamReader) -> Call | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    is_json = headers.get("content-type", "").startswith("application/json")
    body = json.loads(raw) if raw and is_json else {}
    method, path = head[0].split(" ")[:2]
    return Call(body, headers, path, time.monotonic(), method, raw)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of an orderly end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def completion(call: Call, reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    message |= reply.message
    whole: dict[str, Any] = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": call.body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
    }
    if reply.tokens is not None and call.body.get("logprobs"):
        whole["choices"][0]["logprobs"] = {"content": [_logprobs(*one) for one in reply.tokens]}
    if reply.usage is not None:
        prompt, completion = reply.usage
        whole["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    return json.dumps(whole).encode()


def _logprobs(text: str, probabilities: Mapping[str, float]) -> dict[str, Any]:
    top = [{"token": one, "logprob": math.log(p)} for one, p in probabilities.items()]
    return {"token": text, "logprob": math.log(probabilities[text]), "top_logprobs": top}


def chooses(chosen: str, probabilities: Mapping[str, float], before: str = "") -> Reply:
    """An answer whose last token is `chosen`, with its alternatives; `before` it stands a text."""
    tokens = [(before, {before: 1.0})] if before else []
    return Reply(before + chosen, tokens=[*tokens, (chosen, probabilities)])


def main() -> None:
    """Serve until standard input ends; the URL is the first line printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    arguments = parser.parse_args()
    reply = says({"x": "some words " * 10})
    with ScriptedLLM(reply, slots=arguments.slots, latency_s=arguments.latency) as llm:
        print(llm.url, flush=True)
        with contextlib.suppress(EOFError):
            input()


if __name__ == "__main__":
    main()
