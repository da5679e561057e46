"""`p4r reason`, killed at random moments: nothing is paid twice, and the artifacts are the same."""

from pathlib import Path

from devtools.scripted_llm import ScriptedLLM
from tests.support.campaign import Attempt, Campaign
from tests.support.killing import Command, paid_again
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP
from tests.support.scripted_batches import ScriptedBatches

KILLS = 2
CONCURRENCY = 2


def command(llm: ScriptedLLM, *more: str) -> Command:
    named = (f"--{name}={BOOKSHOP / name}.jsonl" for name in ("items", "reviews"))
    options = ("--domain", "books", "--artifacts", "out", "--limit", "5")
    own = {
        "P4R_LLM__BASE_URL": llm.url,
        "P4R_LLM__CONCURRENCY": str(CONCURRENCY),
        "P4R_LLM__BATCH_POLL_S": "0.02",
        "P4R_LLM__BATCH_REQUESTS": "7",
    }
    return Command(("reason", *named, *options, *more), own)


def artifacts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").glob("*.jsonl")}


def attempted(
    attempt: Attempt, folder: Path, llm: ScriptedLLM, steps: int, *more: str
) -> dict[str, bytes]:
    """The artifacts after some kills and a last run."""
    folder.mkdir()
    for _ in range(KILLS):
        command(llm, *more).killed(folder, attempt, steps)
    with attempt.timed():
        command(llm, *more).succeed(folder)
    return artifacts(folder)


def test_live_calls(campaign: Campaign, tmp_path: Path) -> None:
    with ScriptedLLM(obliging) as llm:
        (tmp_path / "whole").mkdir()
        done = command(llm).succeed(tmp_path / "whole")
    whole = artifacts(tmp_path / "whole")
    scenario = campaign("p4r reason: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1):
        with attempt, ScriptedLLM(obliging) as llm:
            folder = tmp_path / str(attempt.number)
            assert attempted(attempt, folder, llm, done.steps) == whole
            assert paid_again(call.user for call in llm.calls) <= KILLS * CONCURRENCY


def test_batches(campaign: Campaign, tmp_path: Path) -> None:
    """Only a live call, the first of each step, can be on its way when the process dies."""
    with ScriptedBatches(obliging) as llm:
        (tmp_path / "whole").mkdir()
        done = command(llm, "--batch").succeed(tmp_path / "whole")
    whole = artifacts(tmp_path / "whole")
    scenario = campaign("p4r reason --batch: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1):
        with attempt, ScriptedBatches(obliging) as llm:
            folder = tmp_path / str(attempt.number)
            assert attempted(attempt, folder, llm, done.steps, "--batch") == whole
            live = [call.user for call in llm.calls if "completions" in call.path]
            assert sum(llm.paid.values()) - len(llm.paid) == paid_again(live)
            assert paid_again(live) <= KILLS
