"""The extractor: answers in the ledger, the same to the last bit wherever a run is killed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.ledger import Ledger
from indexer.llm import Request
from indexer.reasoning.extractive.extractor import (
    ITEMS_AT_ONCE,
    NO_SLOT,
    Extraction,
    Extractor,
)
from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import Encoder
from tests.support.hash_encoder import HashEncoder
from tests.support.word_encoder import WordEncoder

SLOTS = ("what the sound is like", "what it is used for")
EXTRACTION = Extraction(SLOTS, "hash-encoder-1")
SAID = ["the sound is warm and full", "used for a small stage", "the sound is thin and cold"]


def about(item: str, reviews: Sequence[Sequence[str]] = (SAID,), **more: Any) -> Request:
    return EXTRACTION.request("personas", reviews, {"item_id": item}, **more)


def answers(requests: Sequence[Request], ledger: Ledger, encoder: Encoder) -> list[Any]:
    async def run() -> list[Any]:
        async with Extractor(encoder, ledger) as extractor:
            return [one.value async for one in extractor.run(requests)]

    return asyncio.run(run())


def test_slots_and_groups_of_the_sentences_of_all_reviews(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        encoder = WordEncoder("sound", "used", "warm", "thin")
        [value] = answers([about("drum", [SAID[:2], SAID[2:]])], ledger, encoder)
    assert value["slots"] == [0, 1, 0]
    assert sorted(number for group in value["groups"] for number in group) == [0, 1, 2]


def test_an_answer_is_in_the_ledger_without_a_text_and_is_not_made_twice(tmp_path: Path) -> None:
    encoder = HashEncoder()
    with Ledger(tmp_path) as ledger:
        first = answers([about("drum")], ledger, encoder)
        encoded = len(encoder.encoded)
        assert answers([about("drum")], ledger, encoder) == first
        assert len(encoder.encoded) == encoded
    line = (tmp_path / "personas.jsonl").read_text()
    assert "sound" not in line
    assert '"item_id": "drum"' in line


@pytest.mark.parametrize("changed", ["reviews", "seed", "slots", "encoder", "grouped"])
def test_what_changes_an_answer_changes_its_key(changed: str) -> None:
    other = {
        "reviews": about("drum", [SAID[:2]]),
        "seed": Extraction(SLOTS, "hash-encoder-1", 1).request("personas", [SAID], {}),
        "slots": Extraction(SLOTS[:1], "hash-encoder-1").request("personas", [SAID], {}),
        "encoder": Extraction(SLOTS, "another").request("personas", [SAID], {}),
        "grouped": about("drum", grouped=False),
    }[changed]
    assert other.key != about("drum").key
    assert about("another item").key == about("drum").key


class NoisyEncoder(HashEncoder):
    """An encoder whose vectors depend on the batch, as those of a real model do in the last bit."""

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        vectors = super().encode_texts(batch)
        noise = np.random.default_rng(len(batch)).standard_normal(vectors.shape)
        return normalised(vectors + 0.5 * noise.astype(np.float32))


@pytest.mark.parametrize("kept", [1, ITEMS_AT_ONCE - 1, ITEMS_AT_ONCE, ITEMS_AT_ONCE + 3])
def test_killed_after_any_answer_a_run_ends_with_the_same_answers(
    tmp_path: Path, kept: int
) -> None:
    requests = [
        about(f"i{number}", [[f"{word} of item {number} in review {row}" for word in "abcdefgh"]])
        for number in range(2 * ITEMS_AT_ONCE)
        for row in [number % 3]
    ]
    with Ledger(tmp_path / "whole") as ledger:
        whole = answers(requests, ledger, NoisyEncoder())
    lines = (tmp_path / "whole" / "personas.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed").mkdir()
    torn = b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2]
    (tmp_path / "killed" / "personas.jsonl").write_bytes(torn)
    with Ledger(tmp_path / "killed") as ledger:
        assert answers(requests, ledger, NoisyEncoder()) == whole
    assert (tmp_path / "killed" / "personas.jsonl").read_bytes() == b"".join(lines)


def test_a_sentence_that_the_encoder_refuses_is_in_no_group(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        [value] = answers([about("drum")], ledger, HashEncoder(cannot="stage"))
    assert [one == NO_SLOT for one in value["slots"]] == [False, True, False]
    assert sorted(number for group in value["groups"] for number in group) == [0, 2]


def test_an_item_of_many_sentences_is_grouped_by_a_sample_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.reasoning.extractive.extractor.MOST_GROUPED", 10)
    monkeypatch.setattr("indexer.reasoning.extractive.extractor.SENTENCES_AT_ONCE", 7)
    reviews = [[f"{row} says that it is fine", f"{row} has the sound of it"] for row in range(20)]
    with Ledger(tmp_path) as ledger:
        [value, other] = answers([about("drum", reviews), about("pan")], ledger, HashEncoder())
    numbers = sorted(number for group in value["groups"] for number in group)
    assert len(numbers) == 10
    assert (numbers[0], numbers[-1]) == (0, 39)
    assert len(value["slots"]) == 40
    assert len(other["slots"]) == len(SAID)
