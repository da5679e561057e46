"""The LLM is asked for personas again, with the remark of a reviewer."""

import asyncio
import re
from pathlib import Path

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM, says
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.ledger import LEDGER, Ledger
from indexer.llm import LLM
from indexer.prompts import Domain
from indexer.reasoning.personas import Personas
from indexer.reasoning.run import reason
from indexer.reasoning.step import Sources, StepReport
from indexer.review.screening import Policy, Screening
from p4r_qdrant.errors import P4RError
from p4r_qdrant.records import ItemPersonas
from p4r_qdrant.settings import LLMSettings
from tests.support.jsonl import read, write
from tests.support.progress import RecordedProgress
from tests.support.reviewing import decide, in_review

REMARK = "These two sound alike.\nSay what the second one cooks. </remarks> ${item}"
WORDS = {
    "kettle": ["drinks tea on every hill", "wants boiling water at night", "collects old copper"],
    "pan": ["fries eggs before work", "bakes flat bread on embers", "owns a single ring"],
}


def answer(call: Call) -> Reply:
    """Two personas of the item; the second one is another one with each remark."""
    words = WORDS["kettle" if "Description: A kettle" in call.user else "pan"]
    chosen = [words[0], words[1 + len(re.findall(r"^On E\d+:", call.user, re.MULTILINE)) % 2]]
    personas = [
        {"name": f"Who {one}", "description": f"Somebody who {one}.", "preference_rationale": one}
        for one in chosen
    ]
    return says({"personas": [{**one, "evidence": ["R1"]} for one in personas]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "items.jsonl", [{"item_id": one} for one in WORDS])
    about = [{"item_id": one, "summary": f"A {one}."} for one in WORDS]
    write(tmp_path, "summaries.jsonl", about)
    notes = [
        {"item_id": one, "user_id": user, "rating": 5, "timestamp": 1, "aspects": {"mood": "warm"}}
        for one in WORDS
        for user in ("ann", "bob")
    ]
    write(tmp_path, "aspects.jsonl", notes)
    return tmp_path


def run(folder: Path, url: str) -> StepReport:
    settings = LLMSettings(base_url=url, attempts=1, retry_for_s=0.0)
    sources = Sources(ArtifactFolder(folder), Domain.load("products"), settings)

    async def run() -> StepReport:
        with Ledger(folder / LEDGER) as ledger:
            async with LLM(settings, ledger) as llm:
                step = Personas(sources, Refusals())
                [report] = await reason([step], llm, ledger, RecordedProgress())
                return report

    return asyncio.run(run())


def served(folder: Path, item_id: str) -> list[str]:
    screening = Screening(folder, Policy())
    lines = [ItemPersonas.model_validate(one) for one in read(folder / "personas.jsonl")]
    screened = screening.screened(next(one for one in lines if one.item_id == item_id))
    return [one.description for one in screened.item.personas] if screened else []


def test_a_remark_reaches_the_llm_once(folder: Path) -> None:
    with ScriptedLLM(answer) as llm:
        run(folder, llm.url)
        before = (folder / "personas.jsonl").read_bytes()
        assert len(llm.calls) == 2
        decide(folder, "lock", "kettle", "kettle_P1")
        decide(folder, "ask", "kettle", "kettle_P2", remark=REMARK)
        assert in_review(folder, "kettle")["kettle_P2"].state == "asked"
        run(folder, llm.url)
        assert len(llm.calls) == 3
        [system, user] = [one["content"] for one in llm.calls[-1].body["messages"]]
        material, _, after = user.partition("</material-")
        assert "E1: Who wants boiling water at night" in material
        assert "sound alike" not in material + system
        assert "On E1: These two sound alike. Say what the second one cooks. </remarks>" in after
        own = in_review(folder, "kettle")
        assert own["kettle_P2"].state == "changed"
        assert own["kettle_P2"].texts.description == "Somebody who collects old copper."
        assert own["kettle_P2"].compared is not None
        assert own["kettle_P2"].compared.description == "Somebody who wants boiling water at night."
        assert own["kettle_P1"].state == "locked"
        assert served(folder, "kettle")[0] == "Somebody who drinks tea on every hill."
        run(folder, llm.url)
        decide(folder, "undo", "kettle", "kettle_P2")
        run(folder, llm.url)
        assert len(llm.calls) == 3, "nothing is paid twice"
        assert (folder / "personas.jsonl").read_bytes() == before


def test_the_llm_is_away_while_a_reviewer_asks(folder: Path) -> None:
    with ScriptedLLM(answer) as llm:
        run(folder, llm.url)
    before = (folder / "personas.jsonl").read_bytes()
    decide(folder, "ask", "pan", "pan_P2", remark="Too like the first one.")
    with pytest.raises(P4RError):
        run(folder, llm.url)
    assert (folder / "personas.jsonl").read_bytes() == before, "the item keeps its personas"
    assert in_review(folder, "pan")["pan_P2"].state == "asked"
    with ScriptedLLM(answer) as llm:
        run(folder, llm.url)
        assert len(llm.calls) == 1
    assert in_review(folder, "pan")["pan_P2"].state == "changed"


def test_an_unusable_answer_leaves_what_there_was(folder: Path) -> None:
    with ScriptedLLM(answer) as llm:
        run(folder, llm.url)
        before = (folder / "personas.jsonl").read_bytes()
    decide(folder, "ask", "pan", "pan_P2", remark="Too like the first one.")
    with ScriptedLLM(says({"personas": []})) as llm:
        report = run(folder, llm.url)
    assert report.failures.total == 1
    assert report.left_out == {"remarks of reviewers without an answer": 1}
    assert (folder / "personas.jsonl").read_bytes() == before
