"""`p4r judge`, killed at random moments: no answer is paid twice, and the results are the same."""

import json
from pathlib import Path

import pytest

from devtools.scripted_llm import ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.judging.explanations import ExplanationSampling, ExplanationStudy
from indexer.judging.personas import PersonaStudy
from tests.support.campaign import LONG, Campaign
from tests.support.jsonl import read, write
from tests.support.killing import Command, files, paid_again
from tests.support.paths import BOOKSHOP
from tests.support.scripted_batches import ScriptedBatches
from tests.support.scripted_judge import Rule, judge, knowing, longer

pytest.importorskip("scipy")

KILLS = 2
CONCURRENCY = 2
PAIRS = [
    ("explanations", "live"),
    ("personas", "--batch"),
    ("explanations", "--batch"),
    ("personas", "live"),
]
SAMPLING = ExplanationSampling(comparisons=6, controls=5)


def command(study: str, llm: ScriptedLLM, folder: Path, *more: str) -> Command:
    """A comparison of few explanations or personas."""
    own = {
        "P4R_LLM__BASE_URL": llm.url,
        "P4R_LLM__CONCURRENCY": str(CONCURRENCY),
        "P4R_LLM__BATCH_POLL_S": "0.02",
        "P4R_LLM__BATCH_REQUESTS": "9",
    }
    options = ["--artifacts", str(BOOKSHOP), "--domain", "books", "--output", "judged"]
    options += ["--sample", str(SAMPLING.comparisons), "--controls", str(SAMPLING.controls), *more]
    if study == "explanations":
        options += ["--explanations", str(explanations(folder))]
    return Command(("judge", study, *options), own)


def explanations(folder: Path) -> Path:
    """What another reranker might say of the first candidate of each reader."""
    personas = {one["item_id"]: one["personas"] for one in read(BOOKSHOP / "personas.jsonl")}
    rows = [
        {
            "user_id": one["user_id"],
            "item_id": one["results"][0]["item_id"],
            "explanation": personas[one["results"][0]["item_id"]][-1]["preference_rationale"],
        }
        for one in read(BOOKSHOP / "candidates.jsonl")
    ]
    return write(folder, "explanations.jsonl", rows)


def good_rule(study: str, folder: Path) -> Rule:
    """A judge that is right in all controls."""
    books, refusals = ArtifactFolder(BOOKSHOP), Refusals()
    if study == "explanations":
        with ExplanationStudy(books, explanations(folder), None, refusals, SAMPLING) as one:
            return knowing(one, longer)
    with PersonaStudy(books, None, folder / "judged", refusals, SAMPLING) as other:
        return knowing(other, longer)


def results(folder: Path) -> dict[str, object]:
    """All that a judge leaves, but the ledger."""
    found: dict[str, object] = dict(files(folder / "judged", "*.jsonl"))
    found = {name: one for name, one in found.items() if not name.startswith("ledger")}
    return found | {"results": json.loads((folder / "judged" / "results.json").read_text())}


@pytest.mark.parametrize(("study", "mode"), PAIRS if LONG else PAIRS[:2])
def test_killed_and_run_again(campaign: Campaign, tmp_path: Path, study: str, mode: str) -> None:
    more = (mode,) if mode == "--batch" else ()
    kind = ScriptedBatches if more else ScriptedLLM
    whole = tmp_path / "whole"
    whole.mkdir()
    script = judge(good_rule(study, tmp_path))
    with kind(script) as llm:
        done = command(study, llm, tmp_path, *more).succeed(whole)
    scenario = campaign(f"p4r judge {study}, {mode}: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1):
        folder = tmp_path / str(attempt.number)
        folder.mkdir()
        with attempt, kind(script) as llm:
            tried = command(study, llm, tmp_path, *more)
            for _ in range(KILLS):
                tried.killed(folder, attempt, done.steps)
            with attempt.timed():
                tried.succeed(folder)
            assert results(folder) == results(whole)
            live = paid_again(call.user for call in llm.calls if "completions" in call.path)
            assert live <= KILLS * CONCURRENCY
            if isinstance(llm, ScriptedBatches):
                assert llm.paid.total() - len(llm.paid) == live
