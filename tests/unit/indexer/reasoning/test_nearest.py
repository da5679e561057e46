"""Alignments by similarity: a brute force agrees, and what the user says decides."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.ledger import Ledger
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.nearest import Case, Remembering, nearest_personas
from indexer.reasoning.nearest_alignments import BLOCK
from indexer.reasoning.questions import Questions
from indexer.reasoning.step import Sources, StepReport
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Persona
from p4r_qdrant.settings import LLMSettings
from tests.support.artifact_rows import aspect_tuple, persona
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.progress import RecordedProgress
from tests.support.word_encoder import WordEncoder

WORDS = ["tea", "book", "salt", "sugar", "ferry", "queue"]
SAID = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
CASES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["taste", "place", "why"]), SAID, min_size=1),
        st.lists(SAID, min_size=1, max_size=7),
    ),
    max_size=6,
)


def one(texts: str, name: str = "N") -> Persona:
    return Persona.model_validate(persona("p", name, (texts, texts)))


@given(CASES)
def test_a_brute_force_agrees(cases: list[tuple[dict[str, str], list[str]]]) -> None:
    encoder = HashEncoder(16)
    found = nearest_personas(
        encoder, [Case(aspects, [one(text) for text in texts]) for aspects, texts in cases]
    )
    assert len(found) == len(cases)
    for nearest, (aspects, texts) in zip(found, cases, strict=True):
        [user] = encoder.encode_texts(["\n".join(f"{slot}: {it}" for slot, it in aspects.items())])
        personas = encoder.encode_texts(
            [f"N. {text} {text[:1].title()}{text[1:]}" for text in texts]
        )
        scores = np.array([np.dot(row, user) for row in personas.astype(np.float64)])
        assert nearest.similarity == pytest.approx(scores.max(), abs=1e-5)
        assert scores[nearest.position] == pytest.approx(scores.max(), abs=1e-5)
        assert not any(
            texts[earlier] == texts[nearest.position] for earlier in range(nearest.position)
        ), "of equal ones the first"
        chosen = personas[nearest.position]
        parts = encoder.encode_texts([f"{slot}: {text}" for slot, text in aspects.items()]) @ chosen
        assert parts[list(aspects).index(nearest.slot)] == pytest.approx(parts.max(), abs=1e-5)


def test_what_the_user_says_decides() -> None:
    encoder = WordEncoder(*WORDS)
    personas = [one("tea"), one("salt"), one("tea")]
    cases = [
        Case({"taste": "tea", "place": None}, personas),
        Case({"taste": "salt", "place": "queue"}, personas),
    ]
    first, second = nearest_personas(encoder, cases)
    assert (first.position, first.slot) == (0, "taste")
    assert first.similarity == pytest.approx(1)
    assert (second.position, second.slot) == (1, "taste")
    assert nearest_personas(encoder, cases[::-1]) == [second, first]
    assert nearest_personas(encoder, []) == []


def test_remembering_asks_once_and_forgets_in_time() -> None:
    inner = HashEncoder(8)
    encoder = Remembering(inner, most=3)
    plain = HashEncoder(8)
    for batch in (["a", "b"], ["b", "a", "c"], ["a", "d", "d"], ["a"], []):
        assert np.array_equal(encoder.encode_texts(batch), plain.encode_texts(batch))
    assert inner.encoded == ["a", "b", "c", "d", "a"], "after d, a was forgotten"


# --- the step ------------------------------------------------------------------------------------


def review(user: str, item: str, timestamp: int) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "rating": 4, "timestamp": timestamp, "text": "x"}


def folder(path: Path, users: int = 2) -> Path:
    """Each user read a, b, c, d in this order; d is held out, of c they say nothing."""
    people = [f"u{n}" for n in range(users)]
    pairs = [(user, n, item) for user in people for n, item in enumerate("abcd")]
    write(path, "items.jsonl", [{"item_id": item} for item in "abcd"])
    write(path, "reviews.jsonl", [review(user, item, n) for user, n, item in pairs])
    write(
        path, "splits.jsonl", [{"user_id": u, "test_item": "d", "valid_item": None} for u in people]
    )
    write(
        path,
        "aspects.jsonl",
        [
            aspect_tuple(
                item, user, taste=None if item == "c" else "salt" if user == "u1" else "tea"
            )
            | {"timestamp": n}
            for user, n, item in pairs
        ],
    )
    write(
        path,
        "personas.jsonl",
        [
            {
                "item_id": item,
                "personas": [
                    persona(f"{item}_P1", "Tea", ("tea", "tea")),
                    persona(f"{item}_P2", "Salt", ("salt", "salt")),
                ],
            }
            for item in "abcd"
        ],
    )
    return path


def align(path: Path, encoder: Any, **more: Any) -> tuple[StepReport, list[str], list[int]]:
    items, reviews, splits = (path / f"{name}.jsonl" for name in ("items", "reviews", "splits"))
    artifacts = run.gather(items, reviews, splits, path)
    seen = RecordedProgress()
    options = AlignmentOptions(**{"strategy": "similarity"} | more)
    [step] = run.steps(
        ["alignments"],
        Sources(artifacts, Domain.load("books"), LLMSettings()),
        Refusals(),
        options,
        encoder,
        seen,
    )
    with Ledger(path / "ledger") as ledger:
        report = step.write(ledger, Questions(step))
    return report, (path / "alignments.jsonl").read_text().splitlines(), seen.counts


def test_the_step(tmp_path: Path) -> None:
    report, lines, seen = align(folder(tmp_path), WordEncoder(*WORDS))
    assert [json.loads(line) for line in lines] == [
        {
            "user_id": user,
            "item_id": "b",
            "persona_id": persona_id,
            "justification": "Nearest to what the user says of the item, above all of taste "
            f"({said}): similarity 1.00.",
        }
        for user, persona_id, said in (("u0", "b_P1", "tea"), ("u1", "b_P2", "salt"))
    ]
    assert report.written == 2
    assert report.left_out == {
        "interactions without aspects": 2,
        "interactions with nothing before them": 2,
    }
    assert seen == [2]


def test_the_rule_of_the_judge_holds(tmp_path: Path) -> None:
    """Newest first, `per_user`, `profile`: what cannot be aligned takes nobody's place."""
    _, lines, _ = align(folder(tmp_path), WordEncoder(*WORDS), profile="others")
    assert [line.split('"')[7] for line in lines] == ["b", "a"] * 2
    _, lines, _ = align(folder(tmp_path), WordEncoder(*WORDS), profile="others", per_user=1)
    assert [line.split('"')[7] for line in lines] == ["b"] * 2


def test_without_splits_the_held_out_would_be_there(tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    folder(tmp_path)
    write(tmp_path, "splits.jsonl", [])
    _, lines, _ = align(tmp_path, WordEncoder(*WORDS))
    assert [line.split('"')[7] for line in lines] == ["d", "b"] * 2


def test_blocks_are_joined(tmp_path: Path) -> None:
    users = BLOCK + 3
    report, lines, seen = align(folder(tmp_path, users), WordEncoder(*WORDS))
    assert seen == [BLOCK, 3]
    assert report.written == len(lines) == users


def test_without_aspects_nothing_is_written(tmp_path: Path) -> None:
    (folder(tmp_path) / "aspects.jsonl").unlink()
    write(tmp_path, "alignments.jsonl", ["{}"])
    with pytest.raises(InputError, match=r"holds no aspects\.jsonl"):
        align(tmp_path, WordEncoder(*WORDS))
    assert (tmp_path / "alignments.jsonl").read_text() == "{}\n"


def test_an_unknown_strategy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no strategy 'luck'; use judge or similarity"):
        align(folder(tmp_path), None, strategy="luck")
