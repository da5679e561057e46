"""The LLM layer against a real HTTP server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from devtools.scripted_llm import (
    EMPTY_BODY,
    FILTERED,
    HALF,
    HANG,
    HUGE,
    NO_CHOICES,
    NO_JSON,
    OTHER_JSON,
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
    BudgetReachedError,
    EndpointDownError,
    LLMRefusedError,
    Request,
    caller,
    estimate_tokens,
    retrying,
)
from indexer.llm.parsing import parse_answer
from indexer.prompts import Prompt
from p4r_qdrant.errors import SettingsError, StorageFullError
from p4r_qdrant.settings import LLMSettings
from tests.support import warm
from tests.support.llm_requests import KEY, SCHEMA, SECRET_TEXT, request, requests
from tests.support.paths import ROOT

GOOD = says({"x": 1})


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BACKOFF_S", 0.01)
    monkeypatch.setattr(caller, "START_RETRY_FOR_S", 0.4)


class Outcome:
    """A run: its answers, what stopped it, and the layer itself."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.error: Exception | None = None
        self.llm: LLM

    @property
    def only(self) -> Answer:
        assert self.error is None
        (answer,) = self.answers
        return answer


def reason(
    server: ScriptedLLM | str,
    ledger: Ledger,
    wanted: Iterable[Request] | AsyncIterator[Request],
    **settings: Any,
) -> Outcome:
    url = server if isinstance(server, str) else server.url
    settings = {"api_key": KEY, "retry_for_s": 5, "timeout_s": 5} | settings
    outcome = Outcome()

    async def main() -> None:
        async with (
            LLM(LLMSettings(base_url=url, **settings), ledger) as outcome.llm,
            aclosing(outcome.llm.run(wanted)) as answers,
        ):
            try:
                async for answer in answers:
                    outcome.answers.append(answer)
            except Exception as error:
                outcome.error = error

    asyncio.run(main())
    return outcome


# -- what should happen --------------------------------------------------------------------------


def test_an_answer(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD) as server:
        outcome = reason(server, ledger, [request()], price_input=1.0, price_output=10.0)
    answer = outcome.only
    assert answer.ok
    assert answer.value == {"x": 1}
    assert answer.problems == ()
    assert (answer.usage.calls, answer.usage.tokens) == (1, 120)
    assert answer.usage.cost_usd == pytest.approx(0.0003)
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Extract."},
            {"role": "user", "content": f"review 0: {SECRET_TEXT}"},
        ],
        "max_tokens": 1024,
        "temperature": 0.0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "aspects", "schema": SCHEMA, "strict": True},
        },
    }
    (entry,) = ledger.entries("aspects")
    assert entry["answer"] == {"x": 1}
    assert entry["about"] == {"n": "0"}
    assert entry["cost_usd"] == pytest.approx(0.0003)


def test_what_is_known_is_not_asked_for(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD) as server:
        first = reason(server, ledger, requests(5))
        again = reason(server, ledger, requests(8))
    assert len(server.calls) == 8
    assert sum(answer.known for answer in again.answers) == 5
    assert {a.request.user: a.value for a in first.answers}.items() <= {
        a.request.user: a.value for a in again.answers
    }.items()
    tally = again.llm.tallies["aspects"]
    assert (tally.answered, tally.known, tally.failed) == (3, 5, 0)
    assert again.llm.usage.calls == 3


def test_two_alike_are_asked_once(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD.slowly(0.1)) as server:
        outcome = reason(server, ledger, [request(1)] * 6)
    assert len(server.calls) == 1
    assert [answer.value for answer in outcome.answers] == [{"x": 1}] * 6


def test_answers_come_as_they_are_ready_and_permits_stay_used(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        return replace(GOOD, after=39) if "review 1:" in call.user else GOOD.slowly(0.02)

    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(40), concurrency=4)
    assert outcome.answers[-1].request.about == {"n": "1"}  # no barrier waits for the slow one
    assert server.busiest == 4


def test_requests_are_pulled_as_they_are_needed(ledger: Ledger) -> None:
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        while True:
            pulled += 1
            yield request(pulled)

    async def main(url: str) -> None:
        async with (
            LLM(LLMSettings(base_url=url, concurrency=4), ledger) as llm,
            aclosing(llm.run(endless())) as answers,
        ):
            count = 0
            async for _ in answers:
                count += 1
                assert pulled <= count + 4 * 4
                if count == 50:
                    break

    with ScriptedLLM(GOOD) as server:
        asyncio.run(main(server.url))
    assert ledger.count("aspects")[0] >= 50


def test_requests_from_a_stream(ledger: Ledger) -> None:
    async def stream() -> AsyncIterator[Request]:
        for one in requests(10):
            await asyncio.sleep(0.001)
            yield one

    with ScriptedLLM(GOOD) as server:
        outcome = reason(server, ledger, stream())
    assert outcome.error is None
    assert len(outcome.answers) == 10


def test_one_request_alone(ledger: Ledger) -> None:
    async def main(url: str) -> list[Answer]:
        async with LLM(LLMSettings(base_url=url), ledger) as llm:
            return [await llm.ask(request()), await llm.ask(request())]

    with ScriptedLLM(GOOD) as server:
        first, second = asyncio.run(main(server.url))
    assert (first.known, second.known) == (False, True)
    assert len(server.calls) == 1


def test_it_is_on_disk_before_it_is_yielded(ledger: Ledger) -> None:
    async def main(url: str) -> None:
        async with (
            LLM(LLMSettings(base_url=url), ledger) as llm,
            aclosing(llm.run(requests(20))) as answers,
        ):
            async for answer in answers:
                text = (ledger.folder / "aspects.jsonl").read_text()
                assert answer.request.key in text

    with ScriptedLLM(GOOD) as server:
        asyncio.run(main(server.url))


# -- the endpoint is unwell ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        fails(429),
        fails(500),
        fails(502),
        fails(503),
        fails(408),
        RESET,
        HALF,
        EMPTY_BODY,
        NO_JSON,
        OTHER_JSON,
        NO_CHOICES,
        Reply(status=500, body=b"\xff\xfe no text"),
    ],
    ids=str,
)
def test_passing_trouble_is_sat_out(trouble: Reply, ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[trouble, trouble]) as server:
        outcome = reason(server, ledger, [request()])
    assert outcome.only.ok
    assert outcome.only.problems == ()  # nothing was wrong with any answer
    assert outcome.only.usage.calls == 1
    assert len(server.calls) == 3
    assert outcome.llm.tallies["aspects"].retries == 2


def test_silence_is_timed_out(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[HANG]) as server:
        outcome = reason(server, ledger, [request()], timeout_s=0.2)
    assert outcome.only.ok
    assert len(server.calls) == 2


def test_a_trickle_is_timed_out(ledger: Ledger) -> None:
    """One byte now and then keeps every socket timeout happy; the call's own ends it."""
    with ScriptedLLM(GOOD, replies=[Reply("{}", cut="drip")]) as server:
        outcome = reason(server, ledger, [request()], timeout_s=0.4)
    assert outcome.only.ok
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("status", "header", "value", "least_s"),
    [
        (429, "retry_after", "0.5", 0.5),
        (503, "retry_after", "0.5", 0.5),
        (429, "retry_after_ms", "400", 0.4),
        (429, "retry_after", "-5", 0),
        (429, "retry_after", "nonsense", 0),
        (429, "retry_after", "nan", 0),
    ],
)
def test_retry_after_is_honoured(
    status: int, header: str, value: str, least_s: float, ledger: Ledger
) -> None:
    with ScriptedLLM(GOOD, replies=[fails(status, **{header: value})]) as server:
        outcome = reason(server, ledger, [request()])
    assert outcome.only.ok
    first, second = server.calls
    assert second.started - first.started >= least_s


def test_retry_after_may_be_a_date(ledger: Ledger) -> None:
    date = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    due = time.monotonic() + (date - datetime.now(UTC)).total_seconds()
    reply = fails(429, retry_after=format_datetime(date, usegmt=True))
    with ScriptedLLM(GOOD, replies=[reply]) as server:
        outcome = reason(server, ledger, [request()])
    assert outcome.only.ok
    assert server.calls[1].started >= due - 0.05  # two clocks


def test_nobody_asks_earlier_than_told(ledger: Ledger) -> None:
    """An hour is more than anyone waits here: the request is given up, not sent too early."""
    replies = [GOOD, fails(429, retry_after="3600")]
    with ScriptedLLM(GOOD, replies=replies) as server:
        outcome = reason(server, ledger, requests(3), concurrency=1)
    assert outcome.error is None
    assert len(server.calls) == 3
    assert [a.problems for a in outcome.answers if not a.ok] == [("no answer came: HTTP 429",)]


def test_waiting_requests_leave_no_permit_unused(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        first = not any(seen.user == call.user for seen in server.calls[:-1])
        return fails(429, retry_after="4") if call.user < "review 12" and first else GOOD

    with ScriptedLLM(script) as server:
        server.replies.append(GOOD)
        wanted = [request(n) for n in (0, *range(10, 12), *range(20, 60))]
        outcome = reason(server, ledger, wanted, concurrency=2)
    order = [int(answer.request.about["n"]) for answer in outcome.answers]
    assert set(order[-2:]) == {10, 11}
    assert len(order) == 43


def test_down_at_the_start(ledger: Ledger) -> None:
    outcome = reason("http://127.0.0.1:9/v1", ledger, requests(50))
    assert isinstance(outcome.error, EndpointDownError)
    assert outcome.error.exit_code == 1
    assert str(outcome.error) == (
        "http://127.0.0.1:9/v1 does not answer (the connection failed: ConnectError); "
        "check P4R_LLM__BASE_URL, and run again when it is up"
    )
    assert outcome.answers == []


def test_down_in_the_middle(ledger: Ledger) -> None:
    with ScriptedLLM(fails(503), replies=[GOOD] * 10) as server:
        outcome = reason(server, ledger, requests(100), concurrency=2, retry_for_s=0.3)
        assert isinstance(outcome.error, EndpointDownError)
        assert "all answers are kept" in str(outcome.error)
        assert sum(answer.ok for answer in outcome.answers) == 10
        asked = len(server.calls)
        server.script = GOOD
        again = reason(server, ledger, requests(100))
    assert len(again.answers) == 100
    assert all(answer.ok for answer in again.answers)
    assert len(server.calls) - asked == 90


def test_an_outage_is_outlasted(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[GOOD] * 5 + [fails(503)] * 20) as server:
        outcome = reason(server, ledger, requests(30), concurrency=4)
    assert outcome.error is None
    assert all(answer.ok for answer in outcome.answers)


def test_a_request_that_fells_the_endpoint_fails_alone(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        return fails(500) if "review 7:" in call.user else GOOD

    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(20), retry_for_s=0.2, concurrency=2)
    assert outcome.error is None
    (failed,) = (answer for answer in outcome.answers if not answer.ok)
    assert failed.request.about == {"n": "7"}
    assert failed.problems == ("no answer came: HTTP 500",)
    assert ledger.count("aspects") == (19, 1)


# -- the endpoint says no ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (fails(400, "n must be 1"), "rejects such requests (HTTP 400: n must be 1)"),
        (fails(401, "Incorrect API key"), "rejects the key: set P4R_LLM__API_KEY (HTTP 401"),
        (fails(402, "Pay first"), "has no credit left (HTTP 402: Pay first)"),
        (
            fails(403, "Country"),
            "check the rights of the key and the model's name (HTTP 403: Country)",
        ),
        (
            fails(404, "no model m"),
            "has no model m, or is not a chat-completions endpoint: check P4R_LLM__MODEL",
        ),
        (fails(429, "You exceeded your quota", code="insufficient_quota"), "has no credit left"),
        (Reply(status=404, body=b"404 page not found"), "(HTTP 404: 404 page not found)"),
        (Reply(status=401, body=b'{"detail": "bad token"}'), "(HTTP 401: bad token)"),
        (Reply(status=401, body=b'{"error": "bad token"}'), "(HTTP 401: bad token)"),
        (Reply(status=401, body=b""), "(HTTP 401: no reason given)"),
        (Reply(status=307, headers={"location": "http://evil.example/"}, body=b""), "HTTP 307"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_refusal_stops_the_run_at_once(reply: Reply, said: str, ledger: Ledger) -> None:
    with ScriptedLLM(reply) as server:
        outcome = reason(server, ledger, requests(100), concurrency=8)
    assert isinstance(outcome.error, LLMRefusedError)
    assert outcome.error.exit_code == 2
    assert said in str(outcome.error)
    assert "\n" not in str(outcome.error)
    assert len(server.calls) == 1
    assert outcome.answers == []
    assert ledger.count("aspects") == (0, 0)
    assert outcome.llm.stopped is outcome.error


def test_a_refusal_in_the_middle_keeps_what_is_under_way(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        return fails(401) if "review 9:" in call.user else GOOD.slowly(0.1)

    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(100), concurrency=4)
    assert isinstance(outcome.error, LLMRefusedError)
    assert len(outcome.answers) == server.answered == ledger.count("aspects")[0]
    assert len(server.calls) <= 9 + 4 + 1


@pytest.mark.parametrize(
    "reply",
    [
        fails(400, "This model's maximum context length is 8192 tokens"),
        fails(400, "too long", code="context_length_exceeded"),
        fails(400, "request exceeds the available context size", code="exceed_context_size_error"),
        fails(413, "Payload Too Large"),
        fails(400, "The prompt triggered the content management policy", code="content_filter"),
        HUGE,
    ],
    ids=lambda reply: str(reply)[:80],
)
def test_one_bad_record_fails_alone(reply: Reply, ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[reply]) as server:
        outcome = reason(server, ledger, requests(3))
    assert outcome.error is None
    assert sorted(answer.ok for answer in outcome.answers) == [False, True, True]
    assert len(server.calls) == 3  # asking the same again would be in vain


def test_enlarging_can_be_refused(ledger: Ledger) -> None:
    """A truncated answer is asked again with more tokens; that alone must not stop a run."""
    replies = [TRUNCATED, fails(400, "max_tokens is too large: this model supports 1024")]
    with ScriptedLLM(GOOD, replies=replies) as server:
        outcome = reason(server, ledger, [request()], answer_form="json_schema", concurrency=1)
    assert server.calls[2].body["max_completion_tokens"] == 2048
    assert outcome.only.ok


# -- answers that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (says("I think the answer is 42."), "the answer was not a JSON object"),
        (says('{"x": '), "the answer was not a JSON object"),
        (says("[1]"), "the answer was not a JSON object"),
        (says(""), "the answer was empty"),
        (says(None), "the answer was not a JSON object"),
        (Reply(None), "the answer was empty"),
        (says({"x": "one"}), "it does not fit the schema at $.x: 'one' is not of type 'integer'"),
        (says({}), "it does not fit the schema at $: 'x' is a required property"),
        (says('{"x": NaN}'), "the answer was not a JSON object"),
        (says('{"x": 1e999}'), "the answer was not a JSON object"),
        (says('{"x":' * 5000), "the answer was not a JSON object"),
        (TRUNCATED, "the answer was cut off after 1024 tokens"),
        (REFUSED, "the model refused to answer: I cannot help with that."),
        (FILTERED, "the model refused to answer"),
    ],
    ids=str,
)
def test_asked_again_with_what_was_wrong(bad: Reply, problem: str, ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[bad]) as server:
        outcome = reason(server, ledger, [request()])
    assert outcome.only.ok
    (said,) = outcome.only.problems
    assert said.startswith(problem)
    assert outcome.only.usage.calls == 2
    assert len(server.calls) == 2
    first, second = (call.body["messages"] for call in server.calls)
    assert first != second


def test_a_wrong_answer_is_shown_to_the_model(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, replies=[says({"x": "one"})]) as server:
        reason(server, ledger, [request()])
    system, user, own, correction = server.calls[1].body["messages"]
    assert [user["role"], own["role"], correction["role"]] == ["user", "assistant", "user"]
    assert own["content"] == '{"x": "one"}'
    assert "at $.x: 'one' is not of type 'integer'" in correction["content"]
    assert json.dumps(SCHEMA) in system["content"]  # the endpoint did not keep to it by itself


def test_a_truncated_answer_gets_more_room(ledger: Ledger) -> None:
    with ScriptedLLM(TRUNCATED) as server:
        outcome = reason(server, ledger, [request(max_tokens=100)], attempts=4)
    assert not outcome.only.ok
    assert [call.body["max_tokens"] for call in server.calls] == [100, 200, 400, 400]
    assert "cut off after 200 tokens" in server.calls[2].system


def test_whole_though_called_truncated(ledger: Ledger) -> None:
    with ScriptedLLM(says('{"x": 1}\n   \n', finish_reason="length")) as server:
        assert reason(server, ledger, [request()]).only.value == {"x": 1}


def test_the_callers_own_check(ledger: Ledger) -> None:
    def check(value: dict[str, int]) -> str | None:
        return None if value["x"] > 5 else "x names no reviewer of this item"

    with ScriptedLLM(GOOD, replies=[GOOD, says({"x": 6})]) as server:
        outcome = reason(server, ledger, [request(check=check)])
    assert outcome.only.value == {"x": 6}
    assert outcome.only.problems == ("x names no reviewer of this item",)
    assert "x names no reviewer of this item." in server.calls[1].last


def test_attempts_are_bounded_and_the_run_goes_on(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        return says("Well, \ud800\x00 no.") if "review 3:" in call.user else GOOD

    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(6), attempts=3)
        (failed,) = (answer for answer in outcome.answers if not answer.ok)
        assert failed.problems == ("the answer was not a JSON object",) * 3
        assert failed.completion == "Well,  no."
        assert failed.usage.calls == 3
        assert failed.usage.tokens == 360
        assert len(server.calls) == 8
        assert ledger.count("aspects") == (5, 1)
        (entry,) = (one for one in ledger.entries("aspects") if not one["ok"])
        assert entry["completion"] == "Well,  no."
        assert entry["about"] == {"n": "3"}

        server.script = GOOD  # the next run asks for the failed one again, and for it alone
        again = reason(server, ledger, requests(6))
    assert len(server.calls) == 9
    assert all(answer.ok for answer in again.answers)
    assert ledger.count("aspects") == (6, 0)


def test_unicode_mess_is_cleaned(ledger: Ledger) -> None:
    schema = {"type": "object"}
    mess = r'{"a": "tab\t bell\u0007 half\ud83d nul\u0000", "b": ["\u009f x"], "c\u0001": 1}'
    mess = mess + "\ufeff"
    with ScriptedLLM(says(mess)) as server:
        one = Request("aspects", Prompt("s", "u"), schema, "m")
        answer = reason(server, ledger, [one]).only
        again = reason(server, ledger, [one]).only
    assert answer.value == {"a": "tab\t bell half nul", "b": ["x"], "c": 1}
    assert again.value == answer.value
    assert again.known


def test_a_prompt_with_half_an_emoji_is_sent(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD) as server:
        one = Request("aspects", Prompt("s", "half \ud83d nul \x00"), SCHEMA, "m")
        assert reason(server, ledger, [one]).only.ok
    assert server.calls[0].user == "half  nul"


def test_an_endpoint_that_does_not_count(ledger: Ledger) -> None:
    with ScriptedLLM(says({"x": 1}, usage=None)) as server:
        usage = reason(server, ledger, [request()]).only.usage
    assert usage.prompt_tokens == estimate_tokens("Extract." + request().user)
    assert usage.completion_tokens == 3
    assert usage.cost_usd is None  # the price of this model is not known


# -- what the endpoint understands ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rejects", "form", "refused"),
    [
        (["json_schema"], "json_object", 1),
        (["json_schema", "json_object"], "text", 2),
        (["json_object"], "json_schema", 0),
    ],
)
def test_the_form_is_found_out_once(
    rejects: list[str], form: str, refused: int, ledger: Ledger
) -> None:
    with ScriptedLLM(GOOD.slowly(0.3), rejects=rejects) as server:
        outcome = reason(server, ledger, requests(60), concurrency=16)
    assert outcome.error is None
    assert all(answer.ok for answer in outcome.answers)
    forms = Counter(call.form for call in server.calls)
    assert forms[form] == 60
    assert len(server.calls) == 60 + refused
    assert server.busiest > 8  # having found out, they all go at once
    if form != "json_schema":
        assert json.dumps(SCHEMA) in server.calls[-1].system


def test_other_parameters_are_found_out_too(ledger: Ledger) -> None:
    rejects = ["max_tokens", "temperature", "json_schema"]
    with ScriptedLLM(GOOD, rejects=rejects) as server:
        outcome = reason(server, ledger, requests(20))
    assert outcome.error is None
    assert len(server.calls) == 23
    body = server.calls[-1].body
    assert body["max_completion_tokens"] == 1024
    assert not {"max_tokens", "temperature"} & body.keys()


def test_each_model_and_step_has_its_own(ledger: Ledger) -> None:
    def script(call: Call) -> Reply:
        if call.body["model"] == "old" and call.form == "json_schema":
            return fails(422, "response_format: unknown variant json_schema")
        return GOOD

    old = Request("personas", Prompt("s", "u"), SCHEMA, "old")
    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, [request(1), old, request(2)])
    assert len(outcome.answers) == 3
    assert Counter((call.body["model"], call.form) for call in server.calls) == {
        ("m", "json_schema"): 2,
        ("old", "json_schema"): 1,
        ("old", "json_object"): 1,
    }


def test_a_form_that_is_set_is_kept(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD, rejects=["json_object"]) as server:
        outcome = reason(server, ledger, [request()], answer_form="json_object")
        assert isinstance(outcome.error, LLMRefusedError)
        assert reason(server, ledger, [request()], answer_form="text").only.ok
    assert [call.form for call in server.calls] == ["json_object", "text"]


def test_an_endpoint_that_ignores_the_form(ledger: Ledger) -> None:
    """It takes the schema and does as it likes: the schema goes into the prompt, for all."""

    def script(call: Call) -> Reply:
        return GOOD if '"required": ["x"]' in call.system else says({"answer": 1})

    with ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(20), concurrency=1)
    assert all(answer.ok for answer in outcome.answers)
    assert len(server.calls) <= 22


def test_probing_survives_trouble(ledger: Ledger) -> None:
    replies = [fails(503), RESET, fails(429)]
    with ScriptedLLM(GOOD, replies=replies, rejects=["json_schema"]) as server:
        outcome = reason(server, ledger, requests(30), concurrency=8)
    assert outcome.error is None
    assert len(outcome.answers) == 30


# -- ceilings ------------------------------------------------------------------------------------


def test_the_token_ceiling(ledger: Ledger) -> None:
    wanted = [request(n, max_tokens=200) for n in range(100)]
    with ScriptedLLM(GOOD.slowly(0.02)) as server:
        outcome = reason(server, ledger, wanted, max_tokens=3000, concurrency=8)
        assert isinstance(outcome.error, BudgetReachedError)
        assert outcome.error.exit_code == 2
        assert "the 3,000 tokens of P4R_LLM__MAX_TOKENS" in str(outcome.error)
        spent = outcome.llm.usage.tokens
        assert 2400 <= spent <= 3000  # 120 a call, and never more than allowed
        assert len(outcome.answers) == ledger.count("aspects")[0] == spent // 120
        before = len(server.calls)
        again = reason(server, ledger, wanted)
    assert again.error is None
    assert len(again.answers) == 100
    assert len(server.calls) - before == 100 - len(outcome.answers)


def test_the_cost_ceiling(ledger: Ledger) -> None:
    wanted = [request(n, max_tokens=200) for n in range(100)]
    prices = {"price_input": 1.0, "price_output": 2.0, "max_cost_usd": 0.003}
    with ScriptedLLM(GOOD.slowly(0.02)) as server:
        outcome = reason(server, ledger, wanted, concurrency=8, **prices)
    assert isinstance(outcome.error, BudgetReachedError)
    assert "the 0.003 USD of P4R_LLM__MAX_COST_USD" in str(outcome.error)
    cost = outcome.llm.usage.cost_usd
    assert cost is not None
    assert 0.0022 <= cost <= 0.003
    assert len(outcome.answers) == len(server.calls)
    assert server.busiest > 1  # careful near the ceiling, not all the way


def test_a_ceiling_over_days_binds_all_runs_on_a_folder(ledger: Ledger) -> None:
    with ScriptedLLM(GOOD) as server:
        for run in range(4):
            wanted = [request(n, max_tokens=200) for n in range(10 * run, 10 * run + 10)]
            outcome = reason(server, ledger, wanted, max_tokens=3000, ceiling_days=7)
    assert isinstance(outcome.error, BudgetReachedError)
    assert "this folder in the last 7 days has used" in str(outcome.error)
    assert len(server.calls) <= 3000 // 120


def test_failed_attempts_cost_too(ledger: Ledger) -> None:
    with ScriptedLLM(says("no")) as server:
        outcome = reason(server, ledger, requests(3), price_input=1.0, price_output=1.0)
    assert outcome.llm.usage.calls == len(server.calls) == 9
    assert outcome.llm.usage.cost_usd == pytest.approx(9 * 120e-6)
    assert outcome.llm.tallies["aspects"].failed == 3


# -- stopping ------------------------------------------------------------------------------------


def test_a_cancelled_run_keeps_what_it_received(ledger: Ledger) -> None:
    async def main(url: str) -> None:
        async with LLM(LLMSettings(base_url=url, concurrency=8), ledger) as llm:

            async def consume() -> None:
                async with aclosing(llm.run(requests(1000))) as answers:
                    async for _ in answers:
                        pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with ScriptedLLM(GOOD.slowly(0.01)) as server:
        asyncio.run(main(server.url))
        kept = ledger.count("aspects")[0]
        assert 0 < kept < 1000
        assert server.answered - 8 <= kept <= server.answered
        before = len(server.calls)
        reason(server, ledger, requests(kept + 50))
    assert len(server.calls) - before <= 50 + 8


def test_a_mistake_in_a_check_stops_the_run(ledger: Ledger) -> None:
    def check(value: Any) -> str | None:
        raise KeyError("persona")

    with ScriptedLLM(GOOD) as server:
        outcome = reason(server, ledger, [*requests(3), request(3, check=check), *requests(500)])
    assert isinstance(outcome.error, KeyError)
    assert len(server.calls) < 100


def test_a_mistake_in_the_requests_stops_the_run(ledger: Ledger) -> None:
    def wanted() -> Iterator[Request]:
        yield from requests(3)
        raise SettingsError("no such template")

    with ScriptedLLM(GOOD) as server:
        outcome = reason(server, ledger, wanted())
    assert isinstance(outcome.error, SettingsError)
    assert len(outcome.answers) == len(server.calls) > 0


def test_a_full_disk_stops_the_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    put, count = ledger.put, 0

    def full(*arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count > 10:
            raise StorageFullError("no space left to write it")
        put(*arguments, **named)

    monkeypatch.setattr(ledger, "put", full)
    with ScriptedLLM(GOOD) as server:
        outcome = reason(server, ledger, requests(500), concurrency=4)
    assert isinstance(outcome.error, StorageFullError)
    assert len(outcome.answers) == 10
    assert len(server.calls) < 30


def test_stopping_does_not_wait_for_a_stream(ledger: Ledger) -> None:
    async def stream() -> AsyncIterator[Request]:
        yield request()
        await asyncio.sleep(3600)

    with ScriptedLLM(fails(401)) as server:
        outcome = reason(server, ledger, stream())
    assert isinstance(outcome.error, LLMRefusedError)


def test_stopping_does_not_wait_for_a_retry(ledger: Ledger) -> None:
    replies = [GOOD, fails(429, retry_after="3600"), fails(401)]
    with ScriptedLLM(GOOD, replies=replies) as server:
        outcome = reason(server, ledger, requests(3), concurrency=1, retry_for_s=7200)
    assert isinstance(outcome.error, LLMRefusedError)


RUN = """
import asyncio, sys
from contextlib import aclosing, suppress
from pathlib import Path
from indexer.ledger import Ledger
from indexer.llm import LLM
from p4r_qdrant.settings import LLMSettings
from tests.support.llm_requests import requests

async def main():
    settings = LLMSettings(base_url=sys.argv[1], concurrency=16)
    with Ledger(Path(sys.argv[2])) as ledger:
        async with LLM(settings, ledger) as llm, aclosing(llm.run(requests(400))) as answers:
            async for answer in answers:
                if not answer.known:
                    print(answer.request.key, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again(blow: signal.Signals, tmp_path: Path) -> None:
    """No answer that was received is asked for again: the endpoint counts."""

    def script(call: Call) -> Reply:
        number = re.search(r"review (\d+)", call.user)
        assert number
        return says({"x": int(number[1])}, delay_s=0.01)

    root = ROOT
    command = [sys.executable, "-c", RUN]
    with ScriptedLLM(script) as server:
        received: list[str] = []
        for _ in range(2):
            run = warm.Popen(
                [*command, server.url, str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            assert run.stdout
            with run.stdout as lines:
                received += [next(lines) for _ in range(60)]
                run.send_signal(blow)
                received += [line for line in lines if line.endswith("\n")]
            assert run.wait(10) != 0
        with Ledger(tmp_path) as ledger:
            kept = {entry["key"] for entry in ledger.entries("aspects")}
            asked_before = len(server.calls)
            outcome = reason(server, ledger, requests(400))
        assert {line.strip() for line in received} <= kept
        assert len(received) == len(set(received))
        assert len(server.calls) - asked_before == 400 - len(kept)
        assert len(server.calls) <= 400 + 2 * 16  # at most the calls in flight are paid twice
        assert {answer.request.about["n"]: answer.value["x"] for answer in outcome.answers} == {
            str(n): n for n in range(400)
        }


# -- secrets and strangers' words ----------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        fails(401, f"Incorrect API key provided: {KEY}"),
        fails(400, f"cannot parse: {SECRET_TEXT} and {KEY}"),
        Reply(status=403, body=f"<p>{KEY}</p> {SECRET_TEXT}".encode()),
        says(f"{KEY} {SECRET_TEXT}"),
        fails(503, SECRET_TEXT),
    ],
)
def test_no_key_and_no_text_gets_out(
    script: Reply, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), ScriptedLLM(script) as server:
        outcome = reason(server, ledger, requests(3), retry_for_s=0.2)
    shown = [caplog.text, repr(outcome.error), repr(outcome.answers), repr(outcome.llm)]
    shown += [repr(request()), repr(LLMSettings(api_key=KEY))]
    for text in shown:
        assert KEY not in text
        assert "Rose Lane" not in text


def test_an_answer_is_bounded(ledger: Ledger) -> None:
    huge_error = Reply(status=500, body=b"x" * (5 << 20))
    with ScriptedLLM(GOOD, replies=[HUGE, huge_error]) as server:
        outcome = reason(server, ledger, requests(2), concurrency=1)
    problems = [answer.problems for answer in outcome.answers if not answer.ok]
    assert problems == [("the response was larger than 4 MB",)] * 2


# -- settings ------------------------------------------------------------------------------------


def test_openai_wants_a_key(ledger: Ledger) -> None:
    with pytest.raises(SettingsError, match="P4R_LLM__API_KEY"):
        LLM(LLMSettings(), ledger)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x/v1", "https://me:pw@x/v1", "https://x/v1?key=k", "http://[::1"],
)
def test_an_address_that_cannot_be(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        LLMSettings(base_url=url)


def test_a_key_does_not_travel_in_the_open() -> None:
    with pytest.raises(ValidationError, match="unencrypted to gpu"):
        LLMSettings(base_url="http://gpu:8000/v1", api_key=KEY)
    LLMSettings(base_url="http://gpu:8000/v1")
    LLMSettings(base_url="http://gpu:8000/v1", api_key=KEY, allow_plaintext_key=True)


def test_a_step_of_its_own() -> None:
    settings = LLMSettings.model_validate(
        {"model": "a", "price_input": 1, "price_output": 2, "aspects": {"model": "gpt-4o-mini"}}
    )
    assert settings.of("personas").cost(1_000_000, 1_000_000) == 3
    assert settings.of("aspects").cost(1_000_000, 1_000_000) == 0.75
    assert settings.of("something else").model == "a"


def test_a_cost_ceiling_needs_prices() -> None:
    LLMSettings(max_cost_usd=1.0)
    with pytest.raises(ValidationError, match="needs the prices of local"):
        LLMSettings(model="local", max_cost_usd=1.0)
    LLMSettings(model="local", max_cost_usd=1.0, price_input=0, price_output=0)


# -- the parser ----------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20).map(str.strip)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)
prose = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=60)


@given(objects, prose, prose, st.sampled_from([None, 2]), st.booleans(), st.booleans())
def test_wrapping_is_forgiven(
    value: dict[str, Any], before: str, after: str, indent: int | None, fence: bool, ascii_: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    text = f"{before}```json\n{text}\n```{after}" if fence else f"{before}{text}{after}"
    assert parse_answer(text) == value


@given(objects.filter(bool))
def test_small_mistakes_are_forgiven(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert parse_answer(f'<think>\nIs it {{"x": 1}}?\n</think>\n{text[:-1]},}}') == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": None, "b": [True, False,],}', {"a": None, "b": [True, False]}),
        ('{"a": "None, True,}"}', {"a": "None, True,}"}),
        ('{"a": "b",\n}', {"a": "b"}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('An example: {"a": 1}. The answer: {"a": 2, "b": 3}', {"a": 2, "b": 3}),
        ('{see below} {"a": 1}', {"a": 1}),
        ('{"": {},}', {"": {}}),
        ('{"a": "http://b", // where\n "c": 1 /* one */}', {"a": "http://b", "c": 1}),
        ("{'a': 'it is', 'b': ['c', 'd']}", {"a": "it is", "b": ["c", "d"]}),
        ("{\u201ca\u201d: \u201cb\u201d}", {"a": "b"}),
        ('{"a": "\u201cb\u201d, \'c\', // d",}', {"a": "\u201cb\u201d, 'c', // d"}),
    ],
)
def test_what_models_write(text: str, value: dict[str, Any]) -> None:
    assert parse_answer(text) == value


@given(st.text() | st.text(alphabet='{}[]",:\\ax1 \n'))
def test_nothing_upsets_the_parser(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_answer(text), dict)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 500_000,
        '{"a":' * 100_000,
        '{"' * 200_000,
        '"\\' * 200_000,
        "[" * 500_000,
        "{" + "/*" * 200_000,
        "{" + " '" * 200_000,
    ],
)
def test_no_answer_takes_the_parser_long(text: str) -> None:
    """Quadratic work on these would take longer than a test may."""
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_answer(text)
