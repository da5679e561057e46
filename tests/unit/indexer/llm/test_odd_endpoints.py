"""What real endpoints send, refuse and mean: each a scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM, fails, says
from indexer.llm import LLMRefusedError, Request, caller, retrying
from indexer.llm.errors import TransientError
from indexer.llm.wire import read_json
from p4r_qdrant.settings import LLMSettings
from tests.support.asking import ask, entries
from tests.support.llm_requests import KEY, SCHEMA, requests
from tests.support.scripted_batches import ScriptedBatches

GOOD = says({"x": 1})
DRAFT = '{"x": 2222222222}'
ANSWER = '{"x": 1}'


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BACKOFF_S", 0.01)
    monkeypatch.setattr(caller, "START_RETRY_FOR_S", 0.4)


def number(call: Call) -> int:
    return int(call.user.split(":")[0].removeprefix("review "))


def only(bad: Reply, *numbers: int) -> Callable[[Call], Reply]:
    return lambda call: bad if number(call) in numbers else GOOD


# -- one record never ends a run ------------------------------------------------------------------

REFUSALS = [
    fails(400, "Content Exists Risk"),
    fails(400, "invalid request"),
    fails(422, "this cannot be processed"),
    fails(451, "not in your country"),
    fails(403, "your input was flagged by moderation"),
    fails(403, "forbidden"),
    fails(404, "no endpoints found that support this"),
    Reply(body=json.dumps({"error": {"message": "no", "code": 400}}).encode()),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: (one.body or b"")[:50].decode())
@pytest.mark.parametrize("in_batches", [False, True])
def test_a_refused_record_fails_alone(refusal: Reply, in_batches: bool, tmp_path: Path) -> None:
    with ScriptedBatches(only(refusal, 2)) as server:
        answers = ask(server.url, tmp_path, requests(6), in_batches=in_batches)
    assert [answer.request.about["n"] for answer in answers if not answer.ok] == ["2"]
    assert len(answers) == 6
    (failed,) = (one for one in entries(tmp_path) if not one["ok"])
    assert failed["problems"]
    assert len(failed["problems"]) == 1


def test_many_refused_records_fail_alone(tmp_path: Path) -> None:
    refusal = fails(400, "Content Exists Risk")
    unknown = fails(400, "you cannot ask that")
    for bad in (refusal, unknown):
        with ScriptedLLM(only(bad, *range(1, 9))) as server:
            answers = ask(server.url, tmp_path / str(bad is unknown), requests(10))
        assert sum(answer.ok for answer in answers) == 2


def test_an_endpoint_that_answered_in_an_earlier_run_is_not_broken(tmp_path: Path) -> None:
    with ScriptedLLM(GOOD) as server:
        ask(server.url, tmp_path, requests(2))
        server.script = only(fails(400, "you cannot ask that"), 2)
        answers = ask(server.url, tmp_path, requests(4))
    assert [answer.ok for answer in answers] == [True, True, False, True]


def test_a_model_that_never_answered_stops_the_run(tmp_path: Path) -> None:
    """Another model of the same endpoint has answered: that says nothing of this one."""

    def script(call: Call) -> Reply:
        return GOOD if call.body["model"] == "m" else fails(404, "no model big")

    big = Request(step="personas", system="s", user="review 9: x", schema=SCHEMA, model="big")
    with ScriptedLLM(script) as server, pytest.raises(LLMRefusedError, match="no model big"):
        ask(server.url, tmp_path, [*requests(2), big])


# -- codes and named retry times, not prose -------------------------------------------------------

GEMINI = Reply(
    status=429,
    body=json.dumps(
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, check your plan and billing.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [{"@type": "RetryInfo", "retryDelay": "0.05s"}],
                }
            }
        ]
    ).encode(),
)


@pytest.mark.parametrize(
    "busy",
    [
        fails(429, "Limit 3 a minute. Add a card at example.com/account/billing"),
        fails(429, "insufficient quota for this minute", code="rate_limit_exceeded"),
        fails(429, "slow down", code="insufficient_quota", retry_after="0.05"),
        fails(403, "too fast", retry_after="0.05"),
        GEMINI,
        Reply(body=json.dumps({"error": {"message": "overloaded", "code": 503}}).encode()),
        says("", finish_reason="insufficient_system_resource"),
    ],
    ids=range(7),
)
def test_a_busy_minute_is_sat_out(busy: Reply, tmp_path: Path) -> None:
    with ScriptedLLM(GOOD, replies=[busy]) as server:
        answers = ask(server.url, tmp_path, requests(2))
    assert all(answer.ok for answer in answers)
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    "reply",
    [
        fails(429, "no", code="insufficient_quota"),
        fails(429, "no", code="billing_hard_limit_reached"),
        fails(402, "Insufficient balance"),
    ],
    ids=range(3),
)
def test_no_credit_stops_the_run(reply: Reply, tmp_path: Path) -> None:
    with (
        ScriptedLLM(reply, replies=[GOOD]) as server,
        pytest.raises(LLMRefusedError, match="no credit left"),
    ):
        ask(server.url, tmp_path, requests(3))
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"<html>maintenance</html>", "a web page, something other than a chat completion"),
        (b'data: {"choices": []}\n\n', "broke its stream of events off"),
        (b"data: busy\n\n", "sent something other than a chat completion"),
        (b" \n", "an empty body"),
        (b"busy", "sent something other than a chat completion"),
    ],
)
def test_what_is_no_completion_is_named(body: bytes, named: str) -> None:
    with pytest.raises(TransientError, match=named):
        read_json(body)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Gr\u00fc\u00dfe \u4e2d"),
        ("utf-8-sig", "Gr\u00fc\u00dfe"),
        ("cp1252", "Gr\u00fc\u00dfe"),
    ],
)
def test_letters_are_read_in_the_encoding_they_have(encoding: str, text: str) -> None:
    assert read_json(json.dumps({"x": text}, ensure_ascii=False).encode(encoding)) == {"x": text}


def test_a_redirect_is_named(tmp_path: Path) -> None:
    away = Reply(status=308, body=b"", headers={"location": "https://other.example/v1"})
    with ScriptedLLM(away) as server, pytest.raises(LLMRefusedError, match=r"other\.example"):
        ask(server.url, tmp_path, requests(1))


# -- where an answer stands -----------------------------------------------------------------------


def streamed(*pieces: str) -> Reply:
    """A stream that nobody has asked for."""
    events: list[Any] = [{"choices": [{"delta": {"content": one}}]} for one in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None})
    lines = [f"data: {json.dumps(one)}\n\n" for one in events]
    return Reply(body="".join([": ping\n\n", *lines, "data: [DONE]\n\n"]).encode())


def tool(arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize(
    "reply",
    [
        says(ANSWER),
        Reply([{"type": "text", "text": ANSWER}]),
        Reply([{"type": "thinking", "thinking": []}, {"type": "text", "text": ANSWER}]),
        Reply(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                {"type": "text", "text": '{"x": '},
                {"type": "text", "text": "1}"},
            ]
        ),
        Reply([ANSWER]),
        Reply({"x": 1}),
        Reply(None, message={"reasoning_content": ANSWER}),
        Reply("", message={"reasoning": f"I say {DRAFT}, or better:\n```json\n{ANSWER}\n```"}),
        Reply(None, message={"reasoning_details": [{"type": "reasoning.text", "text": ANSWER}]}),
        Reply(None, message=tool(ANSWER)),
        Reply(None, message=tool({"x": 1})),
        Reply("Here it is.", message=tool(ANSWER)),
        Reply(None, message={"function_call": {"name": "f", "arguments": ANSWER}}),
        says({"name": "aspects", "arguments": {"x": 1}}),
        says({"name": "aspects", "arguments": ANSWER}),
        says(json.dumps(ANSWER)),
        says(f"[{ANSWER}]"),
        says(f"Perhaps {DRAFT}? Shorter.\n</think>\n{ANSWER}"),
        says(f"<think>{DRAFT}</think>{ANSWER}"),
        says(f"[THINK]{DRAFT}[/THINK]{ANSWER}"),
        says(f"◁think▷{DRAFT}◁/think▷{ANSWER}"),
        says(f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final<|message|>{ANSWER}"),
        says(f"Thought: {DRAFT}\nBetter:\n```json\n{ANSWER}\n```\nThat is all."),
        says(f"{DRAFT}\n\n# Final\n{ANSWER}\n\nConfidence: {{'high'}} {{\"sure\": 1}}"),
        says(r"\frac{a}{b} " * 300 + '{"x": 1,}'),
        says(f'{ANSWER}\n\n(The form was {{"x": "..."}}.)'),
        Reply(None, message={"parsed": {"x": 1}}),
        Reply(body=json.dumps({"choices": [{"text": ANSWER}]}).encode()),
        streamed('{"x"', ": ", "1}"),
    ],
    ids=range(29),
)
def test_the_answer_is_found(reply: Reply, tmp_path: Path) -> None:
    with ScriptedLLM(reply) as server:
        (answer,) = ask(server.url, tmp_path, requests(1))
    assert answer.value == {"x": 1}
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    "reply",
    [
        says(f"<think>{DRAFT}</think>"),
        says(f"{DRAFT}? No.\n</think>\n"),
        says(f'<think>{DRAFT}</think>{{"y": 1}}'),
        says(f"<think>{DRAFT} and then", finish_reason="length"),
        says(f"<think>{DRAFT} and then", finish_reason="MAX_TOKENS"),
        Reply(None, message={"reasoning_content": f"Perhaps {DRAFT}? No, rather not."}),
        Reply(None, finish_reason="length", message={"reasoning_content": DRAFT}),
    ],
    ids=range(7),
)
def test_a_draft_is_no_answer(reply: Reply, tmp_path: Path) -> None:
    with ScriptedLLM(GOOD, replies=[reply]) as server:
        (answer,) = ask(server.url, tmp_path, requests(1))
    assert answer.value == {"x": 1}
    assert len(server.calls) == 2


# -- thought and its limit ------------------------------------------------------------------------


def thinks(tokens: int, cut: Reply) -> Callable[[Call], Reply]:
    return lambda call: cut if call.body["max_tokens"] < tokens else GOOD


@pytest.mark.parametrize(
    "cut",
    [
        says("", finish_reason="length"),
        says("Let me see. The review", finish_reason="length"),
        Reply(None, finish_reason="length", message={"reasoning_content": "The review"}),
    ],
    ids=range(3),
)
@pytest.mark.parametrize("in_batches", [False, True])
def test_thought_gets_room_once_for_the_step(cut: Reply, in_batches: bool, tmp_path: Path) -> None:
    with ScriptedBatches(thinks(4000, cut)) as server:
        answers = ask(server.url, tmp_path, requests(5, max_tokens=300), in_batches=in_batches)
    assert all(answer.ok for answer in answers)
    assert sum(answer.usage.calls for answer in answers) == 6
    if not in_batches:
        limits = [call.body["max_tokens"] for call in server.calls]
        assert limits == [300] + [300 + 8192] * 5


def test_the_limit_for_thought_is_a_setting_of_the_step(tmp_path: Path) -> None:
    cut = says("", finish_reason="length")
    with ScriptedLLM(thinks(1500, cut)) as server:
        limits: dict[str, Any] = {"thought_tokens": 100, "aspects": {"thought_tokens": 1300}}
        answers = ask(server.url, tmp_path, requests(2, max_tokens=300), **limits)
        assert all(answer.ok for answer in answers)
        assert [call.body["max_tokens"] for call in server.calls] == [1600] * 2
        own: dict[str, Any] = {"aspects": {"answer_tokens": 2000}}
        ask(server.url, tmp_path / "2", requests(1, max_tokens=300), **own)
        assert server.calls[-1].body["max_tokens"] == 2000


def test_the_limit_of_an_answer_is_not_part_of_its_key(tmp_path: Path) -> None:
    with ScriptedLLM(GOOD) as server:
        ask(server.url, tmp_path, requests(2))
        answers = ask(server.url, tmp_path, requests(2), aspects={"answer_tokens": 2000})
    assert all(answer.known for answer in answers)


@pytest.mark.parametrize("counts", [False, True])
def test_thought_without_end_is_not_paid_for_thrice(counts: bool, tmp_path: Path) -> None:
    def script(call: Call) -> Reply:
        usage = (10, call.body["max_tokens"]) if counts else None
        return says("", finish_reason="length", usage=usage)

    with ScriptedLLM(script) as server:
        answers = ask(server.url, tmp_path, requests(3, max_tokens=300))
    assert len(server.calls) == 2 + 1 + 1
    assert answers[0].problems[-1] == (
        "the answer was cut off in its thought after 8492 tokens: raise "
        "P4R_LLM__ASPECTS__THOUGHT_TOKENS"
    )


def test_a_model_that_rambles_is_given_room_only_once(tmp_path: Path) -> None:
    """Prose without end is no thought: the next records do not pay for it."""
    with ScriptedLLM(says("Well, you know,", finish_reason="length")) as server:
        ask(server.url, tmp_path, requests(5, max_tokens=300))
    limits = [call.body["max_tokens"] for call in server.calls]
    assert limits.count(300 + 8192) <= 2  # two requests are on their way at a time
    assert max(limits[-6:]) == 1200


def test_a_longer_answer_is_learned_for_the_step(tmp_path: Path) -> None:
    def script(call: Call) -> Reply:
        return says('{"x": ', finish_reason="length") if call.body["max_tokens"] < 500 else GOOD

    with ScriptedLLM(script) as server:
        ask(server.url, tmp_path, requests(4, max_tokens=300))
    limits = [call.body["max_tokens"] for call in server.calls]
    assert limits == sorted(limits)
    assert limits.count(300) <= 2  # two requests are on their way at a time


# -- what an endpoint does not take ---------------------------------------------------------------


def refuses(message: str, when: Callable[[dict[str, Any]], bool], status: int = 400) -> Any:
    return lambda call: fails(status, message) if when(call.body) else GOOD


def has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: name in body


def system_message(body: dict[str, Any]) -> bool:
    return bool(body["messages"][0]["role"] == "system")


@pytest.mark.parametrize(
    ("script", "sent"),
    [
        (
            refuses("`temperature` must be strictly positive", lambda b: not b["temperature"], 422),
            {"temperature": 0.01},
        ),
        (refuses("temperature is deprecated for this model", has("temperature")), {}),
        (refuses("Only the default temperature (1) is supported", has("temperature")), {}),
        (refuses("System role not supported", system_message), {"temperature": 0.0}),
        (refuses("roles must alternate user/assistant", system_message), {"temperature": 0.0}),
        (
            refuses("max_tokens: 1024 is larger than 512", lambda b: b["max_tokens"] > 512),
            {"max_tokens": 512},
        ),
        (refuses("not implemented: response_format", lambda b: "strict" in str(b), 501), {}),
        (refuses("Unknown name: strict", lambda b: "json_schema" in str(b)), {}),
    ],
    ids=range(8),
)
def test_what_is_refused_is_changed_once_and_remembered(
    script: Any, sent: dict[str, Any], tmp_path: Path
) -> None:
    with ScriptedLLM(script) as server:
        answers = ask(server.url, tmp_path, requests(4))
    assert all(answer.ok for answer in answers)
    assert len(server.calls) == 5
    last = server.calls[-1].body
    assert sent.items() <= last.items()
    assert "temperature" in last or not sent
    first, *others = entries(tmp_path)
    assert first["refusals"][0].startswith(("HTTP 4", "HTTP 501"))
    assert all(one["refusals"] == [] for one in others)


def test_a_format_that_works_is_not_given_up_for_one_record(tmp_path: Path) -> None:
    """The message repeats a review that mentions the temperature."""
    bad = fails(400, "we do not take: the temperature of the soup, response_format")
    with ScriptedLLM(only(bad, 1)) as server:
        answers = ask(server.url, tmp_path, requests(4))
    assert [answer.ok for answer in answers] == [True, False, True, True]
    assert server.calls[-1].body["temperature"] == 0.0
    assert server.calls[-1].form == "json_schema"


CONTEXTS = [
    "maximum context length is {context}; {prompt} in the messages, {limit} in the completion",
    "maximum context length is {context}, you requested {sum} ({prompt} in the messages)",
    "max_tokens {limit} too large: context length {context}, input {prompt} ({limit} > {context})",
    "input length and `max_tokens` exceed context limit: {prompt} + {limit} > {context}",
    "`inputs` tokens + `max_new_tokens` must be <= {context}. Given: {prompt} and {limit}",
]


@pytest.mark.parametrize("text", CONTEXTS, ids=range(5))
@pytest.mark.parametrize("in_batches", [False, True])
def test_an_answer_that_does_not_fit_gets_a_smaller_limit(
    text: str, in_batches: bool, tmp_path: Path
) -> None:
    def script(call: Call) -> Reply:
        limit = call.body["max_tokens"]
        prompt = 3000 if number(call) else 2000
        if prompt + limit > 4096:
            shown = {"context": 4096, "prompt": prompt, "limit": limit, "sum": prompt + limit}
            return fails(400, text.format(**shown))
        return GOOD

    with ScriptedBatches(script) as server:
        answers = ask(server.url, tmp_path, requests(4, max_tokens=1500), in_batches=in_batches)
    assert [answer.problems for answer in answers if not answer.ok] == []


def test_a_prompt_that_fills_the_context_fails_at_once(tmp_path: Path) -> None:
    full = "maximum context length is 8192 tokens, you requested 9216 (8192 in your prompt; 1024)"
    with ScriptedLLM(only(fails(400, full), 1)) as server:
        answers = ask(server.url, tmp_path, requests(3))
    assert len(server.calls) == 3
    assert "the prompt is too long" in next(one.problems[0] for one in answers if not one.ok)


# -- the ledger -----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_batches", [False, True])
def test_the_ledger_says_how_it_ended_and_what_was_refused(
    in_batches: bool, tmp_path: Path
) -> None:
    with ScriptedBatches(only(fails(400, "you cannot ask that"), 1)) as server:
        ask(server.url, tmp_path, requests(3), in_batches=in_batches)
    by_number = {one["about"]["n"]: one for one in entries(tmp_path)}
    assert by_number["0"]["finish_reason"] == "stop"
    assert (by_number["2"]["prompt_tokens"], by_number["2"]["completion_tokens"]) == (100, 20)
    assert by_number["1"]["refusals"] == ["HTTP 400: you cannot ask that"]
    assert by_number["1"]["problems"] == ["the endpoint refused: HTTP 400: you cannot ask that"]


@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("bad", [says("I cannot do that."), fails(400, "you cannot ask that")])
def test_what_failed_for_good_is_not_asked_again(
    bad: Reply, in_batches: bool, tmp_path: Path
) -> None:
    with ScriptedBatches(only(bad, 2)) as server:
        options: dict[str, Any] = {"in_batches": in_batches, "repeat_failed": False}
        first = ask(server.url, tmp_path, requests(4), **options)
        server.script = GOOD
        calls = len(server.calls)
        again = ask(server.url, tmp_path, requests(4), **options)
        assert len(server.calls) == calls
        assert [one.request.about["n"] for one in again if not one.ok] == ["2"]
        assert again[2].problems == next(one.problems for one in first if not one.ok)
        other = ask(server.url, tmp_path, requests(4), **options, thought_tokens=9)
        assert all(answer.ok for answer in other)  # other circumstances


def test_what_found_no_answer_is_asked_again(tmp_path: Path) -> None:
    with ScriptedLLM(only(fails(503), 2)) as server:
        first = ask(server.url, tmp_path, requests(4), repeat_failed=False, retry_for_s=0.1)
        server.script = GOOD
        again = ask(server.url, tmp_path, requests(4), repeat_failed=False)
    assert sum(answer.ok for answer in first) == 3
    assert all(answer.ok for answer in again)


# -- Azure's addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_the_query_of_the_address_stays_on_every_call(end: str, tmp_path: Path) -> None:
    with ScriptedBatches(GOOD) as server:
        url = f"{server.url}{end}?api-version=2024-10-21"
        answers = ask(url, tmp_path, requests(3), in_batches=True, api_key=KEY)
    assert all(answer.ok for answer in answers)
    assert len(server.calls) > 4
    for call in server.calls:
        assert "api-version=2024-10-21" in call.path.partition("?")[2].split("&")
        assert call.headers["api-key"] == KEY


def test_azure_gets_the_key_in_its_own_header_only() -> None:
    url = "https://mine.openai.azure.com/openai/deployments/mine?api-version=2024-10-21"
    assert LLMSettings(base_url=url, api_key=KEY).key_headers == {"api-key": KEY}
    assert LLMSettings(base_url=url, api_key="eyJhbGciOi.x.y").key_headers == {
        "Authorization": "Bearer eyJhbGciOi.x.y"
    }
