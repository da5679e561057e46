"""What training learns from: which interactions become examples, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.training.pairs import LEAST_EXAMPLES, Pairs, read_pairs, training_data
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import HistorySettings, TrainingSettings
from tests.support.hash_encoder import HashEncoder

USERS, ITEMS = 10, 5


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten users who read items 0 to 4 in that order; 3 validates, 4 tests, 1 and 2 are aligned."""
    reviews = [
        {
            "item_id": f"i{item}",
            "user_id": f"u{user}",
            "timestamp": item,
            "rating": 5,
            "aspects": {"slot": f"text {user} {item}"},
        }
        for user in range(USERS)
        for item in range(ITEMS)
    ]
    alignments = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "persona_id": f"i{item}_P2"}
        for user in range(USERS)
        for item in (0, 1, 2)
    ]
    splits = [
        {"user_id": f"u{user}", "test_item": "i4", "valid_item": "i3"} for user in range(USERS)
    ]
    personas = [
        {
            "item_id": f"i{item}",
            "personas": [
                {
                    "persona_id": f"i{item}_P{one}",
                    "name": f"N{item}{one}",
                    "description": "D.",
                    "preference_rationale": "R.",
                }
                for one in (1, 2)
            ],
        }
        for item in range(ITEMS)
    ]
    write(tmp_path / "aspects.jsonl", reviews)
    write(tmp_path / "alignments.jsonl", alignments)
    write(tmp_path / "splits.jsonl", splits)
    write(tmp_path / "personas.jsonl", personas)
    write(
        tmp_path / "summaries.jsonl",
        [{"item_id": f"i{item}", "summary": f"S{item}."} for item in range(ITEMS)],
    )
    return tmp_path


def read(
    path: Path, refusals: Refusals | None = None, *, length: int = 10, **training: Any
) -> Pairs:
    refusals = refusals or Refusals()
    with training_data(ArtifactFolder(path), refusals) as data:
        return read_pairs(
            data,
            TrainingSettings(**training),
            HistorySettings(length=length),
            refusals,
            encoder=HashEncoder(),
        )


def test_the_others_are_the_history_and_nothing_held_out_is_seen(folder: Path) -> None:
    pairs = read(folder)
    first = pairs.examples[0]
    assert len(pairs.examples) == 3 * USERS
    assert (first.user_id, first.item) == ("u0", 2)  # newest first
    assert first.texts == ("S1.\nslot: text 0 1", "S0.\nslot: text 0 0")
    assert first.positives == (5,)  # i2_P2
    assert first.interacted == (2, 1, 0)
    texts = " ".join(text for one in pairs.examples for text in one.texts)
    assert "S2." in texts
    assert "S3." not in texts
    assert "S4." not in texts


def test_what_came_before(folder: Path) -> None:
    pairs = read(folder, profile="before")
    assert [(one.item, len(one.texts)) for one in pairs.examples[:2]] == [(2, 2), (1, 1)]
    assert pairs.left_out == {"interactions with nothing before them": USERS}


def test_only_the_newest_interactions_are_in_a_history(folder: Path) -> None:
    assert read(folder, length=1).examples[0].texts == ("S1.\nslot: text 0 1",)


def test_interactions_without_an_alignment(folder: Path) -> None:
    lines = (folder / "alignments.jsonl").read_text().splitlines()
    (folder / "alignments.jsonl").write_text("\n".join(lines[1:]))  # without u0, i0
    unjudged: dict[str, Any] = {"unjudged_weight": 0.5}
    assert len(read(folder).examples) == 3 * USERS - 1
    [anyone] = [one for one in read(folder, unjudged="any", **unjudged).examples if one.weight < 1]
    assert (anyone.user_id, anyone.item, anyone.positives) == ("u0", 0, (0, 1))
    pairs = read(folder, unjudged="similar", **unjudged)
    [similar] = [one for one in pairs.examples if one.weight < 1]
    encoder = HashEncoder()
    user = encoder.user_vectors(
        [[*_interactions(folder, "u0")][1:]], length=10, decay=HistorySettings().decay
    )[0]
    assert user is not None
    scores = encoder.encode_texts(pairs.catalogue.texts[:2]) @ user.vector
    assert similar.positives == (int(scores.argmax()),)


def _interactions(folder: Path, user_id: str) -> Any:
    with Histories(ArtifactFolder(folder), Refusals()) as histories:
        return sorted(histories.get(user_id), key=lambda one: one.timestamp)


def test_hard_negatives_are_the_best_candidates_that_are_not_in_the_history(folder: Path) -> None:
    results = [{"item_id": one} for one in ("i1", "nowhere", "i4", "i3")]
    write(folder / "candidates.jsonl", [{"user_id": "u0", "results": results}])
    examples = read(folder, hard_negatives=1).examples
    assert {one.negatives for one in examples if one.user_id == "u0"} == {(8, 9)}  # those of i4
    assert {one.negatives for one in examples if one.user_id == "u1"} == {()}
    (folder / "candidates.jsonl").unlink()
    with pytest.raises(InputError, match=r"candidates\.jsonl"):
        read(folder, hard_negatives=1)


def test_users_who_are_left_out_teach_nothing(folder: Path) -> None:
    with training_data(ArtifactFolder(folder), Refusals()) as data:
        pairs = read_pairs(
            data,
            TrainingSettings(unjudged="any"),
            HistorySettings(),
            Refusals(),
            leave_out={"u1"},
        )
    assert {one.user_id for one in pairs.examples} == {
        f"u{user}" for user in range(USERS) if user != 1
    }


@pytest.mark.parametrize(
    ("line", "reason", "said"),
    [
        ({"user_id": "nobody", "item_id": "i0", "persona_id": "i0_P1"}, "unknown user", "nobody"),
        ({"user_id": "u0", "item_id": "i0", "persona_id": "i0_P9"}, "unknown persona", "i0_P9"),
        ({"user_id": "u0", "item_id": "i0", "persona_id": "i1_P1"}, "unknown persona", "i1_P1"),
        ({"user_id": "u0", "item_id": "i4", "persona_id": "i4_P1"}, "unknown interaction", "held"),
        ({"user_id": "u0", "item_id": "i0", "persona_id": "i0_P1"}, "repeated alignment", "keep"),
        ({"user_id": "u0", "item_id": "i0"}, "broken record", "persona_id"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_and_counted(
    folder: Path, line: dict[str, str], reason: str, said: str
) -> None:
    with (folder / "alignments.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    refusals = Refusals()
    assert len(read(folder, refusals).examples) == 3 * USERS
    assert refusals.counts == {reason: 1}
    assert f"alignments.jsonl:{3 * USERS + 1}: " in refusals.sentences[0]
    assert said in refusals.sentences[0]


def test_too_few_say_how_many_are_needed(folder: Path) -> None:
    lines = (folder / "alignments.jsonl").read_text().splitlines()
    (folder / "alignments.jsonl").write_text("\n".join(lines[:4]))
    with pytest.raises(InputError, match=f"gives 4 examples.*at least {LEAST_EXAMPLES} are needed"):
        read(folder)


def test_one_item_has_nothing_to_be_told_from(folder: Path) -> None:
    write(
        folder / "aspects.jsonl",
        [
            {
                "item_id": item,
                "user_id": f"u{user}",
                "timestamp": 0,
                "rating": 5,
                "aspects": {"slot": "t"},
            }
            for user in range(20)
            for item in ("i0", "not in the catalogue")
        ],
    )
    alignments = [
        {"user_id": f"u{user}", "item_id": "i0", "persona_id": "i0_P1"} for user in range(20)
    ]
    write(folder / "alignments.jsonl", alignments)
    with pytest.raises(InputError, match="of one item"):
        read(folder)


def test_the_hash_is_of_what_is_learnt_from(folder: Path) -> None:
    before = read(folder).hash()
    assert read(folder).hash() == before
    assert read(folder, profile="before").hash() != before
    text = (folder / "personas.jsonl").read_text()
    (folder / "personas.jsonl").write_text(text.replace("D.", "E.", 1))
    assert read(folder).hash() != before
