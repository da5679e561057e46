"""`p4r add`, killed at random moments: paid once, and in the end as if nothing had happened."""

import json
from pathlib import Path

from devtools.scripted_llm import ScriptedLLM
from p4r_qdrant import open_index
from tests.support.campaign import Campaign
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.killing import Command, paid_again
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP

KILLS = 2
CONCURRENCY = 2
ITEMS = read(BOOKSHOP / "items.jsonl")[:4]
REVIEWS = [
    review
    for item in ITEMS
    for review in [
        one for one in read(BOOKSHOP / "reviews.jsonl") if one["item_id"] == item["item_id"]
    ][:2]
]
GIVEN = b"".join(json.dumps(one).encode() + b"\n" for one in [*ITEMS, *REVIEWS])


def command(llm: ScriptedLLM, given: bytes = GIVEN) -> Command:
    own = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__CONCURRENCY": str(CONCURRENCY)}
    options = ("--artifacts", "out", "--domain", "books", "--settle", "0.05")
    return Command(("add", *options), own, given)


def state(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The lines of each artifact, sorted, and the personas of each item in the index."""
    lines = {
        path.name: sorted(path.read_text(encoding="utf-8").splitlines())
        for path in (folder / "out").glob("*.jsonl")
    }
    encoder = HashEncoder()
    with open_index(
        embedded(folder / "p4r-index"),
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
    ) as index:
        return lines, {item[0].item_id: [one.name for one in item] for item in index.items()}


def test_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    with ScriptedLLM(obliging) as llm:
        done = command(llm).succeed(whole)
    assert len(state(whole)[1]) == len(ITEMS)
    scenario = campaign("p4r add: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1):
        folder = tmp_path / str(attempt.number)
        folder.mkdir()
        with attempt, ScriptedLLM(obliging) as llm:
            for _ in range(KILLS):
                command(llm).killed(folder, attempt, done.steps)
            with attempt.timed():
                command(llm).succeed(folder)  # the whole input is given again
            assert state(folder) == state(whole)
            assert paid_again(call.user for call in llm.calls) <= KILLS * CONCURRENCY
