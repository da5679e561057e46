"""`p4r add` and `p4r work` without an LLM: what arrives is quoted, and in the index."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import Journal
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import ItemIndexer
from indexer.ledger import Ledger
from indexer.prompts import Domain
from indexer.reasoning.item_steps import extractor, item_steps
from indexer.reasoning.step import Sources
from indexer.updates.add import Added, StreamingIndexer
from indexer.updates.erasing.run import erasing
from indexer.updates.item_reasoning import ItemReasoner
from indexer.updates.worker import Worker
from p4r_qdrant.records import StoredPersona
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.settings import LLMSettings
from p4r_qdrant.users.records import Job, StoredInteraction
from tests.support.engines import embedded, opened
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.reviewing import decide, in_review
from tests.support.serving import DIMENSION, make_index, with_service

KETTLE = {"item_id": "kettle", "title": "Camp Kettle", "description": "It boils on any fire."}
QUIET = "The kettle is quiet enough for a shared flat."
HILL = "I carried this kettle up every hill."


def review(user_id: str, text: str) -> dict[str, Any]:
    return {"user_id": user_id, "item_id": "kettle", "rating": 5, "timestamp": 5, "text": text}


def sources_of(folder: Path) -> Sources:
    return Sources(ArtifactFolder(folder), Domain.load("products"), LLMSettings(), extractive=True)


def add(folder: Path, records: Iterable[dict[str, Any]]) -> tuple[list[Added], HashEncoder]:
    """What was told of each item, and the encoder that read them."""
    told: list[Added] = []
    encoder, sources, refusals = HashEncoder(), sources_of(folder), Refusals()
    lines = [json.dumps(one).encode() + b"\n" for one in records]

    async def go() -> None:
        async with extractor(encoder, ledger) as answerer:
            steps = item_steps(sources, refusals, encoder)
            await StreamingIndexer(
                ItemReasoner(sources, journal, ledger, answerer, steps, index),
                ItemIndexer(encoder, index, refusals),
                settle_s=0,
                reported=told.append,
            ).run(iter(lines))

    with (
        Ledger(folder / "ledger") as ledger,
        Journal(sources.folder) as journal,
        opened(embedded(folder.with_suffix(".index")), encoder.dimension) as index,
    ):
        asyncio.run(go())
    assert not refusals.total
    return told, encoder


def indexed(folder: Path) -> list[StoredPersona]:
    with opened(embedded(folder.with_suffix(".index")), HashEncoder().dimension) as index:
        return index.get("kettle")


def test_what_arrives_is_quoted_and_in_the_index(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    [unseen], _ = add(folder, [KETTLE])
    assert (unseen.personas, unseen.reviews, unseen.problem) == (1, 0, "")
    assert "It boils on any fire." in indexed(folder)[0].description
    [seen], _ = add(folder, [review("ann", QUIET)])
    assert (seen.personas, seen.reviews) == (1, 1)
    [stored] = indexed(folder)
    assert QUIET in stored.preference_rationale
    assert stored.extractive
    assert stored.fields["extractive"] is True
    [one] = read(folder / "personas.jsonl")
    assert one["personas"][0]["evidence"] == ["ann"]
    [aspects] = read(folder / "aspects.jsonl")
    assert f"“{QUIET}”" in [text for text in aspects["aspects"].values() if text]


def test_a_record_that_is_known_is_read_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    records = [KETTLE, review("ann", QUIET)]
    add(folder, records)
    told, encoder = add(folder, records)
    assert told == []
    assert encoder.encoded == []


def test_decisions_of_reviewers_rule_what_arrives(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    add(folder, [KETTLE, review("ann", QUIET)])
    [persona_id] = in_review(folder, "kettle")
    decide(folder, "edit", "kettle", persona_id, description="Mine.")
    add(folder, [review("bob", HILL)])
    assert "Mine." in [one.description for one in indexed(folder)]
    for persona_id in in_review(folder, "kettle"):
        decide(folder, "reject", "kettle", persona_id)
    [one], _ = add(folder, [KETTLE | {"title": "Kettle"}])
    assert (one.is_withheld, one.written, one.problem) == (True, True, "")
    assert indexed(folder) == []


def test_no_quote_of_an_erased_user_stays(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    add(folder, [KETTLE, review("ann", QUIET), review("bob", HILL)])
    assert HILL in (folder / "personas.jsonl").read_text(encoding="utf-8")
    with (
        Ledger(folder / "ledger") as ledger,
        erasing(ArtifactFolder(folder), ledger, ["bob"], Refusals()) as erased,
    ):
        assert erased.items == ["kettle"]
    for path in folder.rglob("*"):
        assert path.is_dir() or HILL.encode() not in path.read_bytes(), path


def test_the_worker_reads_a_review_without_an_llm(tmp_path: Path) -> None:
    base = embedded(tmp_path / "index")
    make_index(base)
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    backend = Backend(with_service(base), lambda _: HashEncoder(DIMENSION))
    backend.open()
    backend.load_encoder()
    try:
        with backend.in_use() as live, Ledger(artifacts / "ledger") as ledger:
            one = StoredInteraction("ada", "ships", 10, rating=5.0, review_text=QUIET)
            about = {"item_id": one.item_id, "timestamp": one.timestamp}
            live.users.add(one, Job(f"aspects {one.key}", "aspects", one.user_id, about))
            worker = Worker(backend, sources_of(artifacts), ledger)
            assert asyncio.run(worker.work_once()) == 1
            assert worker.done == {"aspects": 1}
            assert worker.usage.calls == 0
            stored = live.users.get(one)
        assert stored is not None
        assert f"“{QUIET}”" in (stored.aspects or {}).values()
    finally:
        backend.close()
