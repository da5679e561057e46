"""`p4r reason` and an LLM that gives no usable answer, or none to some records."""

from pathlib import Path

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM, fails, says
from tests.support.command_line import Run
from tests.support.jsonl import read
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP

SOURCES = (
    *("reason", "--items", str(BOOKSHOP / "items.jsonl")),
    *("--reviews", str(BOOKSHOP / "reviews.jsonl"), "--domain", "books", "--artifacts", "out"),
)
NO = says("I cannot do that.")


@pytest.mark.parametrize("bad", [NO, says(None, refusal="I cannot do that.")])
def test_no_usable_answer_is_a_failure_and_is_not_paid_for_again(
    bad: Reply, p4r: Run, llm: ScriptedLLM
) -> None:
    llm.script = bad
    options = (*SOURCES, "--limit", "2")
    done = p4r(*options, P4R_LLM__BASE_URL=llm.url)
    assert done.code == 1
    assert "summaries: none of 2 requests has a usable answer" in done.sentence
    assert "--retry-failed" in done.sentence
    assert "2 requests without a usable answer: the " in done.out
    assert "such as for item_id '" in done.out
    assert len(llm.calls) == 2 * 3
    assert {call.step for call in llm.calls} == {"summaries"}, "no other step was paid for"
    assert not Path("out/summaries.jsonl").exists()

    again = p4r(*options, P4R_LLM__BASE_URL=llm.url)
    assert (again.code, again.sentence) == (1, done.sentence)
    assert len(llm.calls) == 2 * 3
    dry = p4r(*options, "--dry-run", P4R_LLM__BASE_URL=llm.url)
    assert "summaries: 2 have failed for good, and are not asked again" in dry.out

    llm.script = obliging
    forced = p4r(*options, "--retry-failed", P4R_LLM__BASE_URL=llm.url)
    assert forced.code == 0
    assert len(read(Path("out/summaries.jsonl"))) == 2


def test_an_earlier_artifact_is_kept(p4r: Run, llm: ScriptedLLM) -> None:
    options = (*SOURCES, "--limit", "2", "--steps", "summaries")
    assert p4r(*options, P4R_LLM__BASE_URL=llm.url).code == 0
    before = Path("out/summaries.jsonl").read_bytes()
    llm.script = NO
    assert p4r(*options, P4R_LLM__BASE_URL=llm.url, P4R_LLM__MODEL="other").code == 1
    assert Path("out/summaries.jsonl").read_bytes() == before


def test_some_failures_are_counted_with_their_reasons(p4r: Run, llm: ScriptedLLM) -> None:
    def script(call: Call) -> Reply:
        if call.step == "summaries" and "Salt Orchard" in call.user:
            return fails(400, "Content Exists Risk")
        return obliging(call)

    llm.script = script
    done = p4r(*SOURCES, "--steps", "summaries", P4R_LLM__BASE_URL=llm.url)
    assert done.code == 0
    assert "summaries: 1 inputs whose answer is missing\n" in done.out
    assert "1 requests without a usable answer: the endpoint's content filter" in done.out
    assert "such as for item_id 'salt-orchard'" in done.out
    assert "1 requests have failed for good" in done.out
    calls = len(llm.calls)
    assert p4r(*SOURCES, "--steps", "summaries", P4R_LLM__BASE_URL=llm.url).code == 0
    assert len(llm.calls) == calls
