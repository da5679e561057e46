"""Plain text answers, and the log-probabilities of options in them."""

import math
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import Reply, ScriptedLLM, chooses, fails, says
from indexer.llm import LLMRefusedError, Options, Request
from indexer.llm.options import Token, option_logprobs
from indexer.llm.parsing import thought_end
from tests.support.asking import ask, entries

LETTERS = Options(("A", "B", "C"))
STEP = "peer-letters"


def text_request(number: int = 0, options: Options | None = None, **more: Any) -> Request:
    user = f"question {number}"
    return Request(STEP, None, None, "m", system="Say.", user=user, options=options, **more)


def token(text: str, **probabilities: float) -> Token:
    named = {name.replace("_", " "): math.log(p) for name, p in probabilities.items()}
    return Token(text, named or {text: 0.0})


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        ([token("A", A=0.5, B=0.25)], LETTERS, {"A": 0.5, "B": 0.25}),
        ([token("A", A=0.5, _A=0.25, a=0.1)], LETTERS, {"A": 0.75}),
        ([token("("), token("A", A=0.5, C=0.5)], LETTERS, {"A": 0.5, "C": 0.5}),
        ([token("The", The=0.9, B=0.1), token(" A", _A=1.0)], LETTERS, {"B": 0.1}),
        ([token("<", B=0.2), token("A", A=1.0)], LETTERS, {"B": 0.2}),
        ([token("Well", Well=1.0), token(" A", _A=1.0)], LETTERS, None),
        ([token("yes", yes=0.6, NO=0.4)], Options(("Yes", "No")), {"Yes": 0.6, "No": 0.4}),
        (
            [token("7 of 9. Rating"), token(":"), token(" 3", _3=0.7, _4=0.2, _17=0.1)],
            Options(("3", "4", "1"), after="rating:"),
            {"3": 0.7, "4": 0.2},
        ),
        (
            [token("7 of 9. Rating: "), token("3", **{"3": 0.7, "4": 0.2})],
            Options(("3", "4", "7"), after="rating:"),
            {"3": 0.7, "4": 0.2},
        ),
        ([token("no marker "), token("3")], Options(("3",), after="rating:"), None),
        ([], LETTERS, None),
    ],
)
def test_options_are_read_at_their_place(
    tokens: list[Token], options: Options, expected: dict[str, float] | None
) -> None:
    found = option_logprobs(tokens, options)
    assert (found and {name: math.exp(one) for name, one in found.items()}) == (
        expected and pytest.approx(expected)
    )


def test_a_thought_before_the_answer_does_not_count() -> None:
    tokens = [token("<think>"), token("C", C=1.0), token("</think>"), token("A", A=0.8, B=0.2)]
    start = thought_end("".join(one.text for one in tokens))
    assert set(option_logprobs(tokens, LETTERS, start) or {}) == {"A", "B"}
    assert thought_end("<think>it never ends") == len("<think>it never ends")
    assert thought_end("no thought") == 0


def test_text_is_asked_without_a_form_and_kept(tmp_path: Path) -> None:
    with ScriptedLLM(says("<think>hm</think> [2] > [1]")) as llm:
        (answer,) = ask(llm.url, tmp_path, [text_request()])
        (again,) = ask(llm.url, tmp_path, [text_request()])
        assert (answer.value, again.value, again.known) == ("[2] > [1]", "[2] > [1]", True)
        (call,) = llm.calls
    assert call.form == "text"
    assert "JSON" not in call.system
    assert "logprobs" not in call.body


def test_options_are_in_the_ledger_and_in_its_key(tmp_path: Path) -> None:
    with ScriptedLLM(chooses("B", {"B": 0.75, "A": 0.25})) as llm:
        (answer,) = ask(llm.url, tmp_path, [text_request(options=LETTERS)])
        ask(llm.url, tmp_path, [text_request(options=LETTERS)])
        ask(llm.url, tmp_path, [text_request(options=Options(("A", "B")))])
        assert len(llm.calls) == 2
        assert (llm.calls[0].body["logprobs"], llm.calls[0].body["top_logprobs"]) == (True, 20)
    assert answer.value["text"] == "B"
    assert {name: math.exp(one) for name, one in answer.value["options"].items()} == pytest.approx(
        {"A": 0.25, "B": 0.75}
    )
    kept = entries(tmp_path, STEP)
    assert kept[0]["answer"] == answer.value
    keys = {text_request().key, *(one["key"] for one in kept)}
    assert len(keys) == 3, "the same prompt without options is another request"


@pytest.mark.parametrize(
    "script",
    [
        Reply("B"),
        fails(400, "logprobs is not supported with this model"),
        fails(422, "Unrecognized request argument: top_logprobs"),
    ],
)
def test_an_endpoint_without_logprobs_stops_the_run(script: Reply, tmp_path: Path) -> None:
    with (
        ScriptedLLM(script) as llm,
        pytest.raises(LLMRefusedError, match="gives no log-probabilities for m, which peer-lett"),
    ):
        ask(llm.url, tmp_path, [text_request(options=LETTERS)])


def test_fewer_alternatives_are_asked_for_where_the_endpoint_says_so(tmp_path: Path) -> None:
    refusal = fails(400, "top_logprobs must be between 0 and 5")
    with ScriptedLLM(chooses("A", {"A": 1.0}), replies=[refusal]) as llm:
        (answer,) = ask(llm.url, tmp_path, [text_request(options=LETTERS)])
        assert [call.body["top_logprobs"] for call in llm.calls] == [20, 5]
    assert answer.value["options"] == {"A": 0.0}


def test_an_answer_without_an_option_is_asked_again_in_words_for_text(tmp_path: Path) -> None:
    lost = chooses("Hello", {"Hello": 1.0})
    with ScriptedLLM(chooses("A", {"A": 1.0}), replies=[lost]) as llm:
        (answer,) = ask(llm.url, tmp_path, [text_request(options=LETTERS)])
        assert answer.problems == ("it has none of A, B, C",)
        assert "JSON" not in llm.calls[1].last


def test_a_text_that_is_cut_off_counts_if_it_passes_its_check(tmp_path: Path) -> None:
    cut = Reply("[2] > [1] > [2] > [", finish_reason="length")
    with ScriptedLLM(cut) as llm:
        (answer,) = ask(llm.url, tmp_path, [text_request(max_tokens=7)])
        assert answer.ok
        (second,) = ask(llm.url, tmp_path, [text_request(1, check=lambda _: "it is short")])
        assert not second.ok
        assert len(llm.calls) == 4
        assert {call.body["max_tokens"] for call in llm.calls} <= {7, 1024, 2048, 4096}, (
            "no thought"
        )
