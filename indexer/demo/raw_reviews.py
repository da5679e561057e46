"""`p4r demo-llm`: from raw reviews to personas with a small LLM on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import CANDIDATES, ITEMS, REVIEWS, SPLITS
from indexer.artifacts.writing import written_whole
from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.step import Sources
from indexer.terminal.reasoning import ReasoningProgress
from p4r_qdrant.settings import LLMSettings

READER = "norm-t"
"""The reader whose candidates are reranked."""
CANDIDATES_SHOWN = 4
OTHER_REVIEWS = 2
"""Other users' reviews that are read of each candidate."""


def write_part(source: Path, target: Path, reader: str = READER) -> None:
    """Write a reader's history and first candidates as a small catalogue.

    It has as many reviews as a small model can read in a minute or two.
    """
    target.mkdir(parents=True, exist_ok=True)
    held_out = ArtifactFolder(source).held_out()
    [mine] = [one for one in _records(source / CANDIDATES) if one["user_id"] == reader]
    candidates = mine | {"results": mine["results"][:CANDIDATES_SHOWN]}
    reviews = [
        one
        for one in _records(source / REVIEWS)
        if (one["user_id"], one["item_id"]) not in held_out
    ]
    kept = [one for one in reviews if one["user_id"] == reader]
    for candidate in candidates["results"]:
        others = (one for one in reviews if one["item_id"] == candidate["item_id"])
        kept += islice(others, OTHER_REVIEWS)
    items = {one["item_id"] for one in kept} | {one["item_id"] for one in candidates["results"]}
    _write(target / ITEMS, [one for one in _records(source / ITEMS) if one["item_id"] in items])
    _write(target / REVIEWS, kept)
    _write(target / SPLITS, list(_records(source / SPLITS)))
    _write(target / CANDIDATES, [candidates])


def reason(
    folder: Path, settings: LLMSettings, progress: ReasoningProgress, refusals: Refusals
) -> None:
    """Run all four steps on a catalogue of books; the artifacts are written beside it."""
    steps = run.steps(
        list(run.STEPS),
        Sources(ArtifactFolder(folder), Domain.load("books"), settings),
        refusals,
        AlignmentOptions(per_user=1),
    )

    async def ask() -> None:
        async with LLM(settings, ledger) as llm:
            progress.follow(llm)
            await run.reason(steps, llm, ledger, progress)

    with Ledger(folder / "ledger") as ledger, progress:
        asyncio.run(ask())


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    with written_whole(path) as write:
        for one in records:
            write(json.dumps(one, ensure_ascii=False))
