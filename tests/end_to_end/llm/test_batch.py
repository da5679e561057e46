"""Batches against a real HTTP server that misbehaves on purpose; the client is the real one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import (
    HANG,
    REFUSED,
    RESET,
    TRUNCATED,
    Call,
    Reply,
    ScriptedLLM,
    fails,
    says,
)
from indexer.ledger import Ledger
from indexer.llm import (
    LLM,
    Answer,
    BatchesUnderWay,
    BatchFolder,
    BatchLLM,
    BatchProgress,
    BudgetReachedError,
    EndpointDownError,
    LLMRefusedError,
    Request,
    caller,
    retrying,
)
from indexer.llm.batch import endpoint as batch_endpoint
from indexer.llm.batch import passes
from indexer.prompts import Prompt
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings
from tests.support import warm
from tests.support.llm_requests import KEY, SCHEMA, SECRET_TEXT, requests
from tests.support.paths import ROOT
from tests.support.scripted_batches import ScriptedBatches


def number_of(call: Call) -> int:
    return int(call.user.split(":")[0].removeprefix("review "))


def good(call: Call) -> Reply:
    return says({"x": number_of(call)})


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BACKOFF_S", 0.01)
    monkeypatch.setattr(caller, "START_RETRY_FOR_S", 0.4)
    monkeypatch.setattr(batch_endpoint, "SETTLE_S", 0.01)


@pytest.fixture
def server() -> Iterator[ScriptedBatches]:
    with ScriptedBatches(good) as opened:
        yield opened


class Outcome:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.error: Exception | None = None
        self.seen: list[BatchProgress] = []
        self.llm: LLM

    @property
    def values(self) -> dict[int, int]:
        """What was answered, by number; each once."""
        assert len({answer.request.key for answer in self.answers}) == len(self.answers)
        return {
            int(answer.request.about["n"]): answer.value["x"]
            for answer in self.answers
            if answer.ok
        }


def reason(
    server: ScriptedLLM,
    ledger: Ledger,
    wanted: list[Request],
    *,
    wait: bool = True,
    in_batches: bool = True,
    **settings: Any,
) -> Outcome:
    outcome = Outcome()
    more = {"api_key": KEY, "retry_for_s": 2, "timeout_s": 5, "batch_poll_s": 0.01} | settings
    chosen = LLMSettings(base_url=server.url, **more)

    async def main() -> None:
        try:
            outcome.llm = (
                BatchLLM(chosen, ledger, wait=wait, watch=outcome.seen.append)
                if in_batches
                else LLM(chosen, ledger)
            )
            async with outcome.llm as llm, aclosing(llm.run(wanted)) as answers:
                async for answer in answers:
                    outcome.answers.append(answer)
        except Exception as error:
            outcome.error = error

    asyncio.run(main())
    return outcome


def all_of(count: int) -> dict[int, int]:
    return {number: number for number in range(count)}


def leftovers(ledger: Ledger) -> list[str]:
    """What is still known of batches."""
    folder = ledger.folder / "batches"
    lines = (folder / "batches.jsonl").read_text().splitlines()
    return lines + [path.name for path in folder.glob("*.*.jsonl")]


# -- what should happen --------------------------------------------------------------------------


def test_a_run(server: ScriptedBatches, ledger: Ledger) -> None:
    prices: dict[str, Any] = {"price_input": 1.0, "price_output": 10.0}
    outcome = reason(server, ledger, requests(10), **prices)
    assert outcome.error is None
    assert outcome.values == all_of(10)
    assert set(server.paid.values()) == {1}
    assert server.requests[:3] == ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/batch_1"]
    (line, *_) = server.files["file_1"].splitlines()
    (live_call,) = (call for call in server.calls if call.path.endswith("completions"))
    body = json.loads(line)["body"]
    assert body == live_call.body | {"messages": body["messages"]}  # the same words, in all
    keys = [json.loads(one)["custom_id"] for one in server.files["file_1"].splitlines()]
    assert keys == [one.key for one in requests(10)[1:]]
    tally = outcome.llm.tallies["aspects"]
    assert (tally.answered, tally.failed, tally.known) == (10, 0, 0)
    assert tally.usage.calls == 10
    assert tally.usage.cost_usd == pytest.approx(0.0003 * (1 + 9 / 2))  # one live, nine at half
    assert [one.status for one in outcome.seen] == ["submitted", "in_progress", "completed"]
    assert leftovers(ledger) == []
    assert KEY not in repr(outcome.seen)


def test_the_ledger_is_that_of_a_live_run(server: ScriptedBatches, tmp_path: Path) -> None:
    def entries(folder: str, *, in_batches: bool) -> dict[str, Any]:
        with Ledger(tmp_path / folder) as ledger:
            assert reason(server, ledger, requests(6), in_batches=in_batches).error is None
            found = {entry.pop("key"): entry for entry in ledger.entries("aspects")}
        for entry in found.values():
            del entry["time"]
        return found

    assert entries("live", in_batches=False) == entries("batch", in_batches=True)


def test_what_is_known_is_not_asked_again(server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(4), in_batches=False)
    outcome = reason(server, ledger, requests(9))
    assert outcome.values == all_of(9)
    assert sum(answer.known for answer in outcome.answers) == 4
    asked = len(server.calls)
    assert reason(server, ledger, requests(9), in_batches=False).values == all_of(9)
    assert reason(server, ledger, requests(9)).values == all_of(9)
    assert len(server.calls) == asked
    assert set(server.paid.values()) == {1}


def test_nobody_waits(server: ScriptedBatches, ledger: Ledger) -> None:
    first = reason(server, ledger, requests(5), wait=False)
    assert isinstance(first.error, BatchesUnderWay)
    assert first.values == {0: 0}
    for _ in range(4):
        again = reason(server, ledger, requests(5), wait=False)
        if again.error is None:
            break
    assert again.values == all_of(5)
    assert len(server.batches) == 1
    assert set(server.paid.values()) == {1}


def test_batches_are_split_and_bounded(
    server: ScriptedBatches, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = reason(server, ledger, requests(24), batch_requests=4, batch_concurrency=2)
    assert outcome.values == all_of(24)
    assert [content.count(b"\n") for name, content in server.files.items()][:1] == [4]
    created = [one for one in server.requests if one.startswith("POST")]
    assert created.count("POST /v1/batches") == 6  # 23 requests in fours
    under_way: set[str] = set()
    for one in outcome.seen:
        (under_way.discard if one.has_ended else under_way.add)(one.batch_id)
        assert len(under_way) <= 2
    monkeypatch.setattr(passes, "MAX_INPUT_BYTES", 1500)
    assert reason(server, ledger, requests(34)).values == all_of(34)
    sizes = [len(content) for content in server.files.values() if b'"method"' in content]
    assert max(sizes[6:]) <= 1500
    assert len(sizes) > 8


def test_the_limit_of_tokens_under_way(server: ScriptedBatches, ledger: Ledger) -> None:
    outcome = reason(server, ledger, requests(12), batch_tokens=500)
    assert outcome.values == all_of(12)
    sizes = [len(content) for content in server.files.values() if b'"method"' in content]
    assert max(sizes) <= 1500
    assert set(server.paid.values()) == {1}


def test_steps_and_models_are_kept_apart(server: ScriptedBatches, ledger: Ledger) -> None:
    other = [
        Request("personas", Prompt("Write.", f"review {n}: x"), SCHEMA, "big", about={"n": str(n)})
        for n in range(3)
    ]
    wanted = [one for pair in zip(requests(3), other, strict=True) for one in pair]
    outcome = reason(server, ledger, wanted)
    assert outcome.error is None
    assert all(answer.ok for answer in outcome.answers)
    for content in server.files.values():
        lines = [json.loads(line) for line in content.splitlines()]
        assert len({line["body"]["model"] for line in lines if "body" in line}) <= 1


def test_two_alike(server: ScriptedBatches, ledger: Ledger) -> None:
    outcome = reason(server, ledger, [*requests(3), *requests(3)])
    assert len(outcome.answers) == 6
    assert set(server.paid.values()) == {1}


def test_an_iterator_is_refused(server: ScriptedBatches, ledger: Ledger) -> None:
    outcome = reason(server, ledger, iter(requests(3)))  # type: ignore[arg-type]
    assert isinstance(outcome.error, TypeError)


# -- what comes back is not what was hoped for ---------------------------------------------------


def unknown(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(requests(9)[1].key.encode(), b"f" * 32), *lines]


SPOILT: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "reverse": lambda lines: lines[::-1],
    "dropped": lambda lines: lines[::2],
    "twice": lambda lines: [line for line in lines for _ in range(2)],
    "unknown": unknown,
    "broken": lambda lines: [lines[0][:-20] + b"\n", b"\xff\n", b"[1]\n", b"\n", *lines[1:]],
    "no custom_id": lambda lines: [b'{"custom_id": 7}\n', b"{}\n", *lines],
    "deep": lambda lines: [b"[" * 100_000 + b"\n", *lines],
    "huge": lambda lines: [b'{"custom_id": "' + b"x" * (9 << 20) + b'"}\n', *lines],
    "nothing": lambda lines: [] if len(lines) > 5 else lines,
    "odd": lambda lines: [
        lines[0].replace(b'"status_code": 200', b'"status_code": "?"'),
        *lines[1:],
    ],
    "no completion": lambda lines: [lines[0].replace(b'"choices"', b'"chances"'), *lines[1:]],
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_results(how: str, server: ScriptedBatches, ledger: Ledger) -> None:
    spoilt = 0

    def once(lines: list[bytes]) -> list[bytes]:
        nonlocal spoilt
        spoilt += 1
        return SPOILT[how](lines) if spoilt == 1 else lines

    server.spoil = once
    outcome = reason(server, ledger, requests(9), retry_for_s=0.2)
    if how == "nothing":  # the server says it answered, and shows nothing
        assert isinstance(outcome.error, LLMRefusedError)
        assert "the endpoint has deleted the results of batch" in str(outcome.error)
        outcome = reason(server, ledger, requests(9))
    assert outcome.error is None
    assert outcome.values == all_of(9)
    assert leftovers(ledger) == []
    lost = {"dropped": 4, "broken": 1, "nothing": 8, "odd": 1, "no completion": 1}.get(how, 0)
    assert sum(server.paid.values()) == 9 + lost


@pytest.mark.parametrize("bad", [TRUNCATED, REFUSED, says({"x": "one"}), says("no"), says(None)])
def test_what_cannot_be_used_is_asked_again(
    bad: Reply, server: ScriptedBatches, ledger: Ledger
) -> None:
    seen: list[Call] = []

    def script(call: Call) -> Reply:
        if number_of(call) == 3:
            seen.append(call)
            return good(call) if len(seen) == 3 else bad
        return good(call)

    server.script = script
    outcome = reason(server, ledger, requests(5), price_input=1.0, price_output=1.0)
    assert outcome.error is None
    assert outcome.values == all_of(5)
    (late,) = (answer for answer in outcome.answers if answer.problems)
    assert len(late.problems) == 2
    assert late.usage.calls == 3
    assert late.usage.cost_usd == pytest.approx(3 * 60e-6)
    assert seen[0].body["messages"] != seen[1].body["messages"]
    with ScriptedLLM(script) as server_live:  # in the very words of a live run
        del seen[:]
        with Ledger(ledger.folder / "live") as other:
            reason(server_live, other, requests(5), in_batches=False, concurrency=1)
            (entry,) = (one for one in other.entries("aspects") if one["problems"])
    mine = ledger.get("aspects", requests(5)[3].key)
    assert mine is not None
    assert (mine["problems"], mine["answer"]) == (entry["problems"], entry["answer"])
    batched = [
        json.loads(line)["body"]
        for name in ("file_3", "file_5")
        if (line := server.files.get(name))
    ]
    assert [one.body["messages"] for one in seen[1:]] == [one["messages"] for one in batched]


def test_attempts_are_bounded_over_runs(server: ScriptedBatches, ledger: Ledger) -> None:
    server.script = lambda call: says("no") if number_of(call) in (2, 3) else good(call)
    runs = 0
    outcome = reason(server, ledger, requests(4), wait=False)
    while isinstance(outcome.error, BatchesUnderWay):
        outcome = reason(server, ledger, requests(4), wait=False)
        runs += 1
        assert runs < 20
    assert outcome.error is None
    failed = [one for one in ledger.entries("aspects") if not one["ok"]]
    assert [one["about"]["n"] for one in failed] == ["2", "3"]
    for one in failed:
        assert one["problems"] == ["the answer was not a JSON object"] * 3
        assert (one["calls"], one["completion"]) == (3, "no")
    assert len(server.batches) == 2
    assert ledger.count("aspects") == (2, 2)
    assert sum(server.paid.values()) == 2 + 2 * 3
    assert reason(server, ledger, requests(4)).error is None  # all is done: it may be asked anew
    assert sum(server.paid.values()) == 2 + 4 * 3


@pytest.mark.parametrize("reply", [fails(429), fails(500), fails(503)])
def test_lines_that_failed(reply: Reply, server: ScriptedBatches, ledger: Ledger) -> None:
    seen: set[int] = set()

    def script(call: Call) -> Reply:
        number = number_of(call)
        if number > 4 and number not in seen:
            seen.add(number)
            return reply
        return good(call)

    server.script = script
    outcome = reason(server, ledger, requests(8))
    assert outcome.values == all_of(8)
    assert len(server.batches) == 2
    assert set(server.paid.values()) == {1}


def test_a_line_that_always_fails(server: ScriptedBatches, ledger: Ledger) -> None:
    server.script = lambda call: fails(500) if number_of(call) == 2 else good(call)
    outcome = reason(server, ledger, requests(4))
    assert outcome.error is None
    (failed,) = (answer for answer in outcome.answers if not answer.ok)
    assert failed.problems == ("no answer came: HTTP 500",) * 3


def test_a_prompt_that_is_too_long_fails_alone(server: ScriptedBatches, ledger: Ledger) -> None:
    too_long = fails(400, "This model's maximum context length is 8192 tokens")
    server.script = lambda call: too_long if number_of(call) == 2 else good(call)
    outcome = reason(server, ledger, requests(4))
    (failed,) = (answer for answer in outcome.answers if not answer.ok)
    assert "too long" in failed.problems[0]
    assert len(server.batches) == 1  # asking the same again would be in vain


def test_a_line_that_refuses_all(server: ScriptedBatches, ledger: Ledger) -> None:
    server.script = lambda call: fails(403, "not with batches") if number_of(call) else good(call)
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "not with batches" in str(outcome.error)
    server.script = good
    assert reason(server, ledger, requests(4)).values == all_of(4)


# -- how batches end -----------------------------------------------------------------------------


def test_validation_fails(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append("failed:model_not_found:The model m does not do batches.")
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, LLMRefusedError)
    assert str(outcome.error) == (
        "the endpoint refused batch batch_1: The model m does not do batches."
    )
    assert leftovers(ledger) == []
    assert reason(server, ledger, requests(4)).values == all_of(4)


def test_no_text_gets_out(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append(f"failed:invalid:cannot read {SECRET_TEXT} with {KEY}")
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "Rose Lane" not in str(outcome.error)
    server.trouble = lambda call: fails(400, f"{SECRET_TEXT}; {KEY}")
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "Rose Lane" not in str(outcome.error)
    server.trouble = lambda call: fails(401, f"bad key {KEY}")
    outcome = reason(server, ledger, requests(4))
    assert "P4R_LLM__API_KEY" in str(outcome.error)
    assert KEY not in repr(outcome.error)


def test_no_room_at_the_endpoint(server: ScriptedBatches, ledger: Ledger) -> None:
    """The first of two is taken, the second one waits for it; alone it is told what to set."""
    crowded = "failed:token_limit_exceeded:Enqueued token limit reached: 9,000."
    server.ends += ["completed", crowded]
    server.looks = 1
    outcome = reason(server, ledger, requests(9), batch_requests=4)
    assert outcome.values == all_of(9)
    assert set(server.paid.values()) == {1}
    server.ends.append(crowded)
    outcome = reason(server, ledger, requests(12))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "P4R_LLM__BATCH_TOKENS" in str(outcome.error)
    assert "9,000" in str(outcome.error)


def test_it_expires_half_way(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends += ["expired", "expired"]
    outcome = reason(server, ledger, requests(9))
    assert outcome.values == all_of(9)
    assert len(server.batches) == 3
    assert set(server.paid.values()) == {1}
    assert not any(answer.problems for answer in outcome.answers)


def test_it_expires_unasked(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append("expired_at_once")
    outcome = reason(server, ledger, requests(9))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "expired without any answer" in str(outcome.error)
    assert reason(server, ledger, requests(9)).values == all_of(9)
    assert set(server.paid.values()) == {1}


def test_it_is_cancelled(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append("cancelled")
    outcome = reason(server, ledger, requests(9))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "batch_1 was cancelled" in str(outcome.error)
    assert len(outcome.values) == 5
    assert reason(server, ledger, requests(9)).values == all_of(9)
    assert set(server.paid.values()) == {1}


def test_results_come_late(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append("late")
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert set(server.paid.values()) == {1}


def test_results_are_gone(server: ScriptedBatches, ledger: Ledger) -> None:
    server.ends.append("gone")
    outcome = reason(server, ledger, requests(6), retry_for_s=0.2)
    assert isinstance(outcome.error, LLMRefusedError)
    assert "ask its 5 requests, and to pay for them, once more" in str(outcome.error)
    assert reason(server, ledger, requests(6)).values == all_of(6)


def test_a_batch_nobody_knows(server: ScriptedBatches, ledger: Ledger) -> None:
    """Of another account, perhaps: it is not silently paid for again."""
    reason(server, ledger, requests(4), wait=False)
    server.batches.clear()
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, LLMRefusedError)
    assert "does not know batch batch_1" in str(outcome.error)
    assert not server.batches


# -- the wire ------------------------------------------------------------------------------------


def at(method: str, path: str, replies: list[Reply]) -> Callable[[Call], Reply | None]:
    """These replies first to calls of this method and path."""

    def trouble(call: Call) -> Reply | None:
        mine = call.method == method and path in call.path
        return replies.pop(0) if mine and replies else None

    return trouble


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/files"), ("POST", "/batches"), ("GET", "/batches/"), ("GET", "/content")],
)
def test_passing_trouble_is_sat_out(
    method: str, path: str, server: ScriptedBatches, ledger: Ledger
) -> None:
    html = Reply(body=b"<html>busy</html>", headers={"content-type": "text/html"})
    no_json = [] if path == "/content" else [html, Reply(body=b'{"data": 1}'), Reply(body=b"{")]
    replies = [fails(429, retry_after="0.2"), fails(503), RESET, *no_json]
    server.trouble = at(method, path, replies)
    started = time.monotonic()
    outcome = reason(server, ledger, requests(6))
    assert outcome.error is None
    assert not replies
    assert time.monotonic() - started >= 0.2
    assert outcome.values == all_of(6)
    assert set(server.paid.values()) == {1}
    assert len(server.batches) == 1
    assert outcome.llm.tallies["aspects"].retries >= 3


def test_half_a_download_is_begun_again(server: ScriptedBatches, ledger: Ledger) -> None:
    def half(call: Call) -> Reply | None:
        if call.path.endswith("/content") and not cut:
            cut.append(1)
            return Reply(body=next(reversed(server.files.values())), cut="half")
        return None

    cut: list[int] = []
    server.trouble = half
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert cut
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("answer", [fails(500), RESET, fails(409), HANG])
@pytest.mark.parametrize("earlier", [0, 5])
def test_created_and_not_told(
    answer: Reply, earlier: int, server: ScriptedBatches, ledger: Ledger
) -> None:
    """The batch is made, and the answer says otherwise: it is found among the others."""
    for number in range(earlier):
        server.create(Call({"input_file_id": f"other_{number}", "metadata": {}}, {}, "", 0))
        server.files[f"other_{number}"] = b""
    made = 0

    def trouble(call: Call) -> Reply | None:
        nonlocal made
        if call.method == "POST" and call.path.endswith("/batches") and not made:
            server.create(call)
            made += 1
            for number in range(earlier):
                body = {"input_file_id": f"later_{number}", "metadata": {}}
                server.create(Call(body, {}, "", 0))
                server.files[f"later_{number}"] = b""
            return answer
        return None

    server.trouble = trouble
    outcome = reason(server, ledger, requests(6), timeout_s=0.5)
    assert outcome.error is None
    assert outcome.values == all_of(6)
    assert len(server.batches) == 1 + 2 * earlier
    assert set(server.paid.values()) == {1}


ODD = [
    {"data": "x"},
    {"data": ["x", {"id": 7, "metadata": ["p4r_batch"]}]},
    {"id": "b", "status": ["completed"]},
    {"id": "b", "status": "failed", "errors": "none", "metadata": 3},
    {"id": "b", "status": "failed", "errors": {"data": ["x"]}},
    ["id"],
]


@pytest.mark.parametrize("body", ODD, ids=str)
def test_nothing_an_endpoint_says_is_a_traceback(
    body: Any, server: ScriptedBatches, ledger: Ledger
) -> None:
    reason(server, ledger, requests(6), wait=False)
    server.trouble = lambda call: Reply(body=json.dumps(body).encode())
    outcome = reason(server, ledger, requests(6), retry_for_s=0.1)
    assert isinstance(outcome.error, EndpointDownError)
    server.trouble = lambda call: None
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_no_batch_api(status: int, server: ScriptedBatches, ledger: Ledger) -> None:
    server.trouble = lambda call: fails(status)
    outcome = reason(server, ledger, requests(6))
    assert isinstance(outcome.error, LLMRefusedError)
    assert f"has no batch API (HTTP {status}): run without --batch" in str(outcome.error)
    assert leftovers_or_none(ledger) == []
    assert reason(server, ledger, requests(6), in_batches=False).values == all_of(6)


def leftovers_or_none(ledger: Ledger) -> list[str]:
    state = ledger.folder / "batches" / "batches.jsonl"
    return state.read_text().splitlines() if state.exists() else []


def test_down_while_waiting(server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(6), wait=False)
    server.trouble = lambda call: fails(503)
    outcome = reason(server, ledger, requests(6), retry_for_s=0.2)
    assert isinstance(outcome.error, EndpointDownError)
    assert "batches under way continue" in str(outcome.error)
    server.trouble = lambda call: None
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert len(server.batches) == 1


def test_refused_listing_forgets_nothing(server: ScriptedBatches, ledger: Ledger) -> None:
    """A batch whose creation is in doubt, and a key that may not look: it stays in doubt."""

    def trouble(call: Call) -> Reply | None:
        if call.method == "POST" and call.path.endswith("/batches"):
            server.create(call)
            return fails(500)
        if call.method == "GET" and call.path.partition("?")[0].endswith("/batches"):
            return fails(403, "no listing")
        return None

    server.trouble = trouble
    assert isinstance(reason(server, ledger, requests(6)).error, LLMRefusedError)
    server.trouble = lambda call: None
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert len(server.batches) == 1
    assert set(server.paid.values()) == {1}


# -- money ---------------------------------------------------------------------------------------


def test_ceilings_hold_before_submission(server: ScriptedBatches, ledger: Ledger) -> None:
    wanted = requests(40, max_tokens=200)
    outcome = reason(server, ledger, wanted, max_tokens=3000)
    assert isinstance(outcome.error, BudgetReachedError)
    assert outcome.llm.usage.tokens <= 3000
    assert len(outcome.values) > 15  # as batches end, what they did not need is free again
    assert len(outcome.values) == sum(server.paid.values())
    assert reason(server, ledger, wanted).values == all_of(40)


def test_the_worst_case_is_at_the_batch_price(server: ScriptedBatches, ledger: Ledger) -> None:
    prices: dict[str, Any] = {"price_input": 1.0, "price_output": 2.0, "max_cost_usd": 0.01}
    wanted = requests(19, max_tokens=200)
    dear = reason(server, ledger, wanted, wait=False, batch_price_factor=1.0, **prices)
    assert isinstance(dear.error, BatchesUnderWay)
    with Ledger(ledger.folder / "other") as other:
        cheap = reason(server, other, wanted, wait=False, **prices)
    assert isinstance(cheap.error, BatchesUnderWay)
    lines = [content.count(b"\n") for content in server.files.values()]
    assert lines[0] < lines[1] < 2.2 * lines[0] + 1


def test_what_is_under_way_costs_what_this_run_says(
    server: ScriptedBatches, ledger: Ledger
) -> None:
    """Submitted when no price was known."""
    wanted = requests(30, max_tokens=200)
    reason(server, ledger, wanted[:9], wait=False)
    server.looks = 10**6
    prices: dict[str, Any] = {"price_input": 1.0, "price_output": 2.0, "max_cost_usd": 0.003}
    outcome = reason(server, ledger, wanted, wait=False, **prices)
    assert isinstance(outcome.error, BatchesUnderWay)
    assert sum(content.count(b"\n") for content in server.files.values()) <= 12


def test_what_is_under_way_is_kept_back(server: ScriptedBatches, ledger: Ledger) -> None:
    wanted = requests(30, max_tokens=200)
    reason(server, ledger, wanted[:9], wait=False)
    server.looks = 10**6
    outcome = reason(server, ledger, wanted, wait=False, max_tokens=3000)
    assert isinstance(outcome.error, BatchesUnderWay)
    assert sum(content.count(b"\n") for content in server.files.values()) <= 12


# -- what is under way when things change --------------------------------------------------------


def test_another_endpoint(server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(4), wait=False)
    with ScriptedBatches(good) as other:
        outcome = reason(other, ledger, requests(4))
    assert isinstance(outcome.error, InputError)
    assert f"batches are under way at {server.url}" in str(outcome.error)


def test_fewer_requests_than_were_submitted(server: ScriptedBatches, ledger: Ledger) -> None:
    """What was paid for and is not asked for now is there when it is."""
    reason(server, ledger, requests(20), wait=False)
    assert reason(server, ledger, requests(6)).values == all_of(6)
    assert reason(server, ledger, requests(12)).values == all_of(12)
    assert reason(server, ledger, requests(20)).values == all_of(20)
    assert set(server.paid.values()) == {1}
    assert leftovers(ledger) == []


def test_what_nobody_asked_for_is_no_reason_to_give_up_for_good(
    server: ScriptedBatches, ledger: Ledger
) -> None:
    """Answers to other requests lie there; a failure is asked about anew all the same."""
    server.script = lambda call: says("no") if number_of(call) == 2 else good(call)
    reason(server, ledger, requests(20), wait=False)
    assert len(reason(server, ledger, requests(6)).values) == 5
    with pytest.raises(InputError, match="run p4r reason --batch with the same input first"):
        BatchFolder(ledger.folder).check_none("it is a pity")
    server.script = good
    assert reason(server, ledger, requests(6)).values == all_of(6)


def test_nothing_waits_for_what_nobody_asks_for(server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(20), wait=False)
    server.looks = 10**6
    assert reason(server, ledger, requests(1)).values == all_of(1)


@pytest.mark.parametrize("spoil", [b"{}\n", b"\xff\xfe\n", b"[]\n"])
def test_a_broken_state(spoil: bytes, server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(4), wait=False)
    state = ledger.folder / "batches" / "batches.jsonl"
    state.write_bytes(state.read_bytes() + spoil)
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, InputError)
    assert "batches.jsonl:2" in str(outcome.error)


def test_a_lost_input(server: ScriptedBatches, ledger: Ledger) -> None:
    reason(server, ledger, requests(4), wait=False)
    for path in (ledger.folder / "batches").glob("*.input.jsonl"):
        path.unlink()
    outcome = reason(server, ledger, requests(4))
    assert isinstance(outcome.error, InputError)
    assert "is missing" in str(outcome.error)


# -- kill -9 -------------------------------------------------------------------------------------

RUN = """
import asyncio, sys
from contextlib import aclosing
from pathlib import Path
from indexer.ledger import Ledger
from indexer.llm import BatchLLM
from p4r_qdrant.settings import LLMSettings
from tests.support.llm_requests import requests

async def main():
    settings = LLMSettings(base_url=sys.argv[1], batch_poll_s=0.05, batch_requests=40)
    with Ledger(Path(sys.argv[2])) as ledger:
        llm = BatchLLM(settings, ledger)
        async with llm, aclosing(llm.run(requests(100))) as answers:
            async for answer in answers:
                print(answer.request.key, flush=True)

asyncio.run(main())
"""


def before_upload(server: ScriptedBatches, call: Call) -> Reply | None:
    return HANG if call.path.endswith("/files") else None


def before_create(server: ScriptedBatches, call: Call) -> Reply | None:
    return HANG if call.method == "POST" and call.path.endswith("/batches") else None


def after_create(server: ScriptedBatches, call: Call) -> Reply | None:
    if call.method == "POST" and call.path.endswith("/batches"):
        server.create(call)
        return HANG
    return None


def second_create(server: ScriptedBatches, call: Call) -> Reply | None:
    return after_create(server, call) if server.batches else None


def polling(server: ScriptedBatches, call: Call) -> Reply | None:
    return HANG if "/batches/batch_2" in call.path else None


def download(server: ScriptedBatches, call: Call) -> Reply | None:
    if "/content" not in call.path:
        return None
    return HANG if len(server.files) > 4 else None


@pytest.mark.parametrize(
    "moment", [before_upload, before_create, after_create, second_create, polling, download]
)
def test_killed_and_run_again(
    moment: Callable[[ScriptedBatches, Call], Reply | None],
    server: ScriptedBatches,
    tmp_path: Path,
) -> None:
    reached = threading.Event()

    def trouble(call: Call) -> Reply | None:
        reply = moment(server, call)
        if reply is not None:
            reached.set()
        return reply

    server.trouble = trouble
    run = start(server, tmp_path)
    assert reached.wait(30)
    run.kill()
    run.communicate()
    server.trouble = lambda call: None
    with Ledger(tmp_path) as ledger:
        outcome = reason(server, ledger, requests(100), batch_requests=40)
        assert outcome.error is None
        assert outcome.values == all_of(100)
        assert leftovers(ledger) == []
    assert set(server.paid.values()) == {1}
    assert len(server.batches) == 3


@pytest.mark.parametrize("heard", [2, 20, 41])
def test_killed_while_judging(heard: int, server: ScriptedBatches, tmp_path: Path) -> None:
    bad = set(range(3, 100, 7))
    server.script = lambda call: (
        says("no") if number_of(call) in bad and len(call.body["messages"]) == 2 else good(call)
    )
    run = start(server, tmp_path)
    assert run.stdout
    for _ in range(heard):
        assert run.stdout.readline()
    run.kill()
    run.communicate()
    with Ledger(tmp_path) as ledger:
        outcome = reason(server, ledger, requests(100), batch_requests=40)
        assert outcome.error is None
        assert outcome.values == all_of(100)
        for entry in ledger.entries("aspects"):
            assert entry["calls"] == (2 if int(entry["about"]["n"]) in bad else 1)
    assert set(server.paid.values()) == {1}


def start(server: ScriptedBatches, folder: Path) -> subprocess.Popen[str]:
    return warm.Popen(
        [sys.executable, "-c", RUN, server.url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
