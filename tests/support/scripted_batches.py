"""A scripted LLM with the Batch API: /v1/files and /v1/batches over the same script.

    with ScriptedBatches(says({"x": 1})) as llm: ... llm.url ... llm.paid ...

A batch runs when its status is asked for the `looks`-th time; each of its lines goes through the
script like a live call. It fails on demand: `ends` has the ending of each batch in turn, `spoil`
changes the output, and `trouble` answers other calls by hand.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from devtools.scripted_llm import Call, Reply, Script, ScriptedLLM, completion, fails

Lines = list[dict[str, Any]]


@dataclass
class Ran:
    """A batch as the server has it."""

    id: str
    file_id: str
    metadata: dict[str, str]
    ending: str
    status: str = "validating"
    looks: int = 0
    counts: tuple[int, int] = (0, 0)
    files: list[str | None] = field(default_factory=lambda: [None, None])
    errors: Lines = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))


class ScriptedBatches(ScriptedLLM):
    """`page` batches are listed at a time. `paid` counts how often each request was answered."""

    def __init__(
        self,
        script: Script,
        *,
        looks: int = 2,
        ends: Iterable[str] = (),
        page: int = 2,
        **more: Any,
    ) -> None:
        super().__init__(script, **more)
        self.looks = looks
        self.ends = deque(ends)
        """completed, failed:CODE:MESSAGE, expired, cancelled, late, gone: of each batch in turn."""
        self.spoil: Callable[[list[bytes]], list[bytes]] = lambda lines: lines
        self.trouble: Callable[[Call], Reply | None] = lambda call: None
        """Called first for every call that is not a completion."""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Ran] = {}
        self.paid: Counter[str] = Counter()
        self.page = page

    @property
    def requests(self) -> list[str]:
        """Method and path of every call that is not a completion."""
        return [
            f"{call.method} {call.path.partition('?')[0]}"
            for call in self.calls
            if not call.path.partition("?")[0].endswith("/chat/completions")
        ]

    def create(self, call: Call) -> Ran:
        """What a POST to /batches does, for trouble that answers something else."""
        number = len(self.batches) + 1
        ran = Ran(
            f"batch_{number}",
            call.body["input_file_id"],
            call.body["metadata"],
            self.ends.popleft() if self.ends else "completed",
        )
        self.batches[ran.id] = ran
        return ran

    def _reply(self, call: Call) -> Reply:
        if call.path.partition("?")[0].endswith("/chat/completions"):
            reply = super()._reply(call)
            if reply.status == 200 and not reply.cut:
                self.paid[_identity(call)] += 1
            return reply
        if (scripted := self.trouble(call)) is not None:
            return scripted
        path = call.path.partition("?")[0].removeprefix("/v1")
        if call.method == "POST" and path == "/files":
            return self._upload(call)
        if call.method == "POST" and path == "/batches":
            assert call.body["endpoint"] == "/v1/chat/completions"
            assert call.body["completion_window"] == "24h"
            return _json(self._shown(self.create(call)))
        if path == "/batches":
            return self._list(call)
        if found := re.fullmatch(r"/batches/(\w+)", path):
            return self._look(found[1])
        if found := re.fullmatch(r"/files/(\w+)/content", path):
            content = self.files.get(found[1])
            return fails(404, "No such File object") if content is None else Reply(body=content)
        return fails(404, "no such path")

    def _upload(self, call: Call) -> Reply:
        boundary = call.headers["content-type"].partition("boundary=")[2].encode()
        parts = {
            found[1].decode(): part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            for part in call.raw.split(b"--" + boundary)
            if (found := re.search(rb'name="(\w+)"', part.partition(b"\r\n\r\n")[0]))
        }
        assert parts["purpose"] == b"batch"
        return _json({"id": self._keep(parts["file"]), "object": "file", "purpose": "batch"})

    def _keep(self, content: bytes) -> str:
        name = f"file_{len(self.files) + 1}"
        self.files[name] = content
        return name

    def _list(self, call: Call) -> Reply:
        newest = list(reversed(self.batches.values()))
        after = re.search(r"after=(\w+)", call.path)
        start = [ran.id for ran in newest].index(after[1]) + 1 if after else 0
        page = newest[start : start + self.page]
        more = start + self.page < len(newest)
        return _json(
            {"object": "list", "data": [self._shown(ran) for ran in page], "has_more": more}
        )

    def _look(self, batch_id: str) -> Reply:
        ran = self.batches.get(batch_id)
        if ran is None:
            return fails(404, "No such batch")
        ran.looks += 1
        if ran.status in ("validating", "in_progress"):
            ran.status = "in_progress"
            if ran.looks >= self.looks:
                self._run_batch(ran)
        elif ran.ending == "late" and ran.looks == self.looks + 2:
            ran.files[0] = self._keep(self._output)
        return _json(self._shown(ran))

    def _run_batch(self, ran: Ran) -> None:
        ending, _, why = ran.ending.partition(":")
        if ending == "failed":
            code, _, message = why.partition(":")
            ran.status = "failed"
            ran.errors = [{"code": code, "message": message, "line": None, "param": None}]
            return
        lines = self.files[ran.file_id].splitlines()
        run = lines[: len(lines) // 2] if ending in ("expired", "cancelled") else lines
        run = [] if ending == "expired_at_once" else run
        output: list[bytes] = []
        errors: list[bytes] = []
        for line in run:
            (output if (answer := self._run_line(line))[0] else errors).append(answer[1])
        for line in lines[len(run) :]:
            error = {"code": f"batch_{ending.partition('_')[0]}", "message": "its turn never came"}
            asked = json.loads(line)["custom_id"]
            errors.append(_line({"custom_id": asked, "response": None, "error": error}))
        ran.counts = len(output), len(errors)
        output = self.spoil(output)
        ran.status = ending.partition("_")[0] if ending[:2] in ("ex", "ca") else "completed"
        self._output = b"".join(output)
        if output and ending not in ("late", "gone"):
            ran.files[0] = self._keep(self._output)
        if ending == "gone":
            ran.files[0] = "file_gone"
        if errors:
            ran.files[1] = self._keep(b"".join(errors))

    def _run_line(self, line: bytes) -> tuple[bool, bytes]:
        asked = json.loads(line)
        assert asked.keys() == {"custom_id", "method", "url", "body"}
        assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
        call = Call(asked["body"], {}, asked["url"], time.monotonic())
        reply = super()._reply(call)
        body = completion(call, reply) if reply.body is None else reply.body
        if reply.status == 200:
            self.paid[_identity(call)] += 1
        response = {"status_code": reply.status, "request_id": "r", "body": json.loads(body)}
        answer = {"id": "r", "custom_id": asked["custom_id"], "response": response, "error": None}
        return reply.status == 200, _line(answer)

    def _shown(self, ran: Ran) -> dict[str, Any]:
        completed, failed = ran.counts
        lines = self.files[ran.file_id].count(b"\n")
        return {
            "id": ran.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": ran.created,
            "input_file_id": ran.file_id,
            "status": ran.status,
            "output_file_id": ran.files[0],
            "error_file_id": ran.files[1],
            "errors": {"object": "list", "data": ran.errors} if ran.errors else None,
            "request_counts": {"total": lines, "completed": completed, "failed": failed},
            "metadata": ran.metadata,
        }


def _identity(call: Call) -> str:
    """One question, however often and in whatever words it is asked again."""
    return json.dumps([len(call.body["messages"]), call.system, call.user])


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _json(value: dict[str, Any]) -> Reply:
    return Reply(body=json.dumps(value).encode())
