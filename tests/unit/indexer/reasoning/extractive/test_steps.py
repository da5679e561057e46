"""The artifacts of the extractive strategy: quotes with their authors, and nothing held out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.ledger import Ledger
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.item_steps import extractor
from indexer.reasoning.step import Sources
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read, write
from tests.support.progress import RecordedProgress

ITEMS: list[dict[str, Any]] = [
    {"item_id": "drum", "title": "Red Drum", "description": "A drum of birch. It folds flat."},
    {"item_id": "new", "title": "New Bow", "description": "A bow for beginners. It is light."},
    {"item_id": "bare"},
]
TEXTS = {
    ("ann", "drum"): "The sound is warm and full. The sound fills a room with ease.",
    ("bob", "drum"): "The sound is warm. I carry it on the train every day.",
    ("eve", "drum"): "I carry it on the train too. It folds flat on the train.",
    ("dan", "drum"): "Secret words of the test item, which nobody may quote.",
    ("ann", "ghost"): "This item is not in the catalogue at all.",
    ("bob", "bare"): "Fine.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "items.jsonl", ITEMS)
    reviews = [
        {"user_id": user, "item_id": item, "rating": 4, "timestamp": number, "text": text}
        for number, ((user, item), text) in enumerate(TEXTS.items())
    ]
    write(tmp_path, "reviews.jsonl", [*reviews, reviews[0] | {"text": "Said once more by her."}])
    write(
        tmp_path,
        "splits.jsonl",
        [{"user_id": "dan", "test_item": "drum", "valid_item": None, "tie": False}],
    )
    return tmp_path


def reason(
    folder: Path, names: Sequence[str] = tuple(run.STEPS), encoder: HashEncoder | None = None
) -> dict[str, dict[str, int]]:
    """Run the steps; what each has left out, by reason."""
    encoder = encoder or HashEncoder()
    sources = Sources(
        ArtifactFolder(folder), Domain.load("products"), LLMSettings(), extractive=True
    )
    options = AlignmentOptions(strategy="extractive")
    steps = run.steps(names, sources, Refusals(), options, encoder, RecordedProgress())

    async def go() -> dict[str, dict[str, int]]:
        async with extractor(encoder, ledger) as answerer:
            reports = await run.reason(steps, answerer, ledger, RecordedProgress())
        return {
            step.name: dict(+report.left_out) for step, report in zip(steps, reports, strict=True)
        }

    with Ledger(folder / "ledger") as ledger:
        return asyncio.run(go())


def test_personas_quote_reviews_and_name_their_authors(folder: Path) -> None:
    reason(folder)
    drum, new = read(folder / "personas.jsonl")
    assert (drum["item_id"], new["item_id"]) == ("drum", "new")
    for persona in drum["personas"]:
        assert persona["extractive"] is True
        for field in ("description", "preference_rationale"):
            quotes = persona[field].strip("“”").split("” “")
            for quote in quotes:
                authors = {user for (user, item), text in TEXTS.items() if quote in text}
                assert authors & set(persona["evidence"]), quote
    cited = {user for persona in drum["personas"] for user in persona["evidence"]}
    assert cited == {"ann", "bob", "eve"}


def test_an_item_without_reviews_has_one_persona_of_its_metadata(folder: Path) -> None:
    reason(folder)
    [persona] = read(folder / "personas.jsonl")[1]["personas"]
    assert persona == {
        "persona_id": "new_P1",
        "name": "Bow, Beginners, Light",
        "description": "“A bow for beginners.” “It is light.”",
        "preference_rationale": "“New Bow.”",
        "evidence": [],
        "extractive": True,
    }


def test_aspects_hold_each_sentence_once_in_a_slot_of_the_domain(folder: Path) -> None:
    reason(folder)
    aspects = {(one["user_id"], one["item_id"]): one for one in read(folder / "aspects.jsonl")}
    assert set(aspects) == {("ann", "drum"), ("bob", "drum"), ("eve", "drum")}
    for pair, one in aspects.items():
        assert list(one["aspects"]) == [slot.name for slot in Domain.load("products").slots]
        said = " ".join(text for text in one["aspects"].values() if text)
        for sentence in TEXTS[pair].split(". "):
            assert said.count(sentence.rstrip(".")) == 1
        assert one["rating"] == 4


def test_summaries_are_the_first_sentences_of_the_metadata(folder: Path) -> None:
    reason(folder)
    assert read(folder / "summaries.jsonl") == [
        {"item_id": "drum", "summary": "Red Drum. A drum of birch. It folds flat."},
        {"item_id": "new", "summary": "New Bow. A bow for beginners. It is light."},
    ]


def test_what_is_left_out_is_said(folder: Path) -> None:
    left_out = reason(folder)
    assert left_out["summaries"] == {"items without metadata": 1}
    assert left_out["personas"] == {
        "repeated reviews": 1,
        "reviews of unknown items": 1,
        "sentences of fewer than 3 words": 1,
        "items of which nothing is known": 1,
    }
    assert left_out["aspects"] == {"reviews without a sentence to quote": 1}


def test_nothing_held_out_is_encoded_or_written(folder: Path) -> None:
    encoder = HashEncoder()
    reason(folder, encoder=encoder)
    assert not any("Secret" in text for text in encoder.encoded)
    for name in ("summaries", "aspects", "personas", "alignments"):
        content = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        assert "dan" not in content
        assert "Secret" not in content


def test_run_again_it_encodes_no_review_and_writes_the_same(folder: Path) -> None:
    reason(folder)
    names = ("summaries", "aspects", "personas", "alignments")
    before = {name: (folder / f"{name}.jsonl").read_bytes() for name in names}
    encoder = HashEncoder()
    reason(folder, ("summaries", "aspects", "personas"), encoder)
    assert encoder.encoded == []
    assert {name: (folder / f"{name}.jsonl").read_bytes() for name in names} == before


def test_aspects_are_not_made_without_personas(folder: Path) -> None:
    with pytest.raises(InputError, match="add personas to --steps"):
        reason(folder, ("summaries", "aspects"))


def test_a_dry_run_counts_and_costs_nothing(folder: Path) -> None:
    encoder = HashEncoder()
    sources = Sources(
        ArtifactFolder(folder), Domain.load("products"), LLMSettings(), extractive=True
    )
    options = AlignmentOptions(strategy="extractive")
    steps = run.steps(list(run.STEPS), sources, Refusals(), options, encoder)
    with Ledger(folder / "ledger") as ledger:
        found = run.estimate(steps, ledger)
    assert found["personas"].requests == 1
    assert all(one.cost_usd == 0 for one in found.values())
    assert encoder.encoded == []
