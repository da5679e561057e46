"""Lists and truth as files: every form that is taken, everything odd that is counted."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.evaluation.evaluate import EvaluationFiles, evaluate_files
from indexer.evaluation.interactions import read_interactions
from indexer.evaluation.lists import judge_lists
from indexer.evaluation.segments import segments
from indexer.evaluation.truth import Truth, read_truth
from p4r_qdrant.errors import InputError
from tests.support.artifact_rows import review
from tests.support.jsonl import write


def split(user: str, test: str, valid: str | None = None, tie: bool = False) -> dict[str, Any]:
    return {"user_id": user, "test_item": test, "valid_item": valid, "tie": tie}


def ranked(user: str, *items: Any, **more: Any) -> dict[str, Any]:
    results = [
        {"item_id": item, "score": 1 - place / 100} if not isinstance(item, dict) else item
        for place, item in enumerate(items)
    ]
    return {"user_id": user, "results": results, **more}


def truth_of(folder: Path, *rows: Any, on: Any = "test") -> tuple[Truth, Refusals]:
    refusals = Refusals()
    return read_truth(write(folder, "truth.jsonl", rows), refusals, on), refusals


def judged(folder: Path, truth: Truth, *rows: Any, known: Any = None) -> tuple[Any, Refusals]:
    refusals = Refusals()
    path = write(folder, "lists.jsonl", rows)
    return judge_lists(path, truth, refusals, known_items=known), refusals


def test_both_forms_of_truth(tmp_path: Path) -> None:
    truth, _ = truth_of(tmp_path, split("ann", "a", "b", tie=True), split("bob", "c"))
    assert truth.items == {"ann": "a", "bob": "c"}
    assert truth.held_out == {("ann", "a"), ("ann", "b"), ("bob", "c")}
    assert truth.notes == {"users whose test and validation item have one time stamp": 1}
    truth, _ = truth_of(tmp_path, split("ann", "a", "b"), split("bob", "c"), on="valid")
    assert truth.items == {"ann": "b"}
    assert truth.notes == {"users without a valid item, left out": 1}
    assert ("bob", "c") in truth.held_out, "held out all the same"
    truth, _ = truth_of(tmp_path, {"user_id": "ann", "item_id": 7})
    assert truth.items == {"ann": "7"}


def test_truth_that_cannot_be(tmp_path: Path) -> None:
    truth, refusals = truth_of(
        tmp_path,
        split("ann", "a"),
        split("ann", "b"),
        split("bob", "a", "a"),
        {"user_id": "cleo"},
        {"user_id": "dora", "item_id": "a", "test_item": "b"},
        "{",
    )
    assert truth.items == {"ann": "a"}
    assert refusals.total == 5
    assert "user 'ann' is already on line 1" in refusals.sentences[0]
    assert "the split overlaps itself: 'a' is the test item and the" in refusals.sentences[1]
    assert "either test_item (splits) or item_id" in refusals.sentences[2]
    with pytest.raises(InputError, match="holds no test item"):
        truth_of(tmp_path, split("bob", "a", "a"))
    with pytest.raises(InputError, match=r"holds no valid item; give a splits.jsonl with valid_it"):
        truth_of(tmp_path, {"user_id": "ann", "item_id": "a"}, on="valid")


def test_places_and_misses(tmp_path: Path) -> None:
    truth, _ = truth_of(tmp_path, *(split(user, "x") for user in ("ann", "bob", "cleo", "dora")))
    lists, refusals = judged(
        tmp_path,
        truth,
        ranked("bob", "a", "b", "x"),
        ranked("ann", "x"),
        ranked("cleo", "a"),
        ranked("eve", "x"),
    )
    assert lists.ranks.tolist() == [1, 3, 0, 0], "in the order of the truth"
    assert (lists.shortest, lists.longest) == (1, 3)
    assert lists.notes == {
        "lists of users without truth, ignored": 1,
        "users without a list, counted as misses": 1,
    }
    assert refusals.total == 0


def test_an_entry_that_is_no_item_keeps_its_rank(tmp_path: Path) -> None:
    truth, _ = truth_of(tmp_path, split("ann", "x"), split("bob", "x"), split("cleo", "7"))
    lists, refusals = judged(
        tmp_path,
        truth,
        ranked("ann", "[PAD]", {"item_id": None}, {"score": None}, "", "x", "[PAD]"),
        ranked("bob", "a", "a", "strange", "x", "x"),
        ranked("cleo", 6, 7),
        known={"a", "x", "7", "6"},
    )
    assert lists.ranks.tolist() == [5, 4, 2]
    assert refusals.total == 0
    assert lists.notes == {
        "entries that are no item; they keep their rank": 5,
        "items repeated in a list; the first counts": 2,
        "entries that the reviews do not know; they keep their rank": 1,
        "entries without a finite score": 2,
    }


def test_scores_that_are_none(tmp_path: Path) -> None:
    truth, _ = truth_of(tmp_path, split("ann", "x"), split("bob", "x"), split("cleo", "x"))
    lists, refusals = judged(
        tmp_path,
        truth,
        '{"user_id": "ann", "results": [{"item_id": "a", "score": NaN}, {"item_id": "x"},'
        ' {"item_id": "b", "score": null}, {"item_id": "c", "score": Infinity}]}',
        ranked("bob", {"item_id": "x", "score": 1}, {"item_id": "a", "score": 2}),
        ranked("cleo", {"item_id": "x", "score": "high"}),
    )
    assert lists.ranks.tolist() == [2, 1, 0], "the place counts"
    assert lists.notes["entries without a finite score"] == 4
    assert lists.notes["lists that are not sorted by score; their order counts"] == 1
    assert lists.notes["users without a list, counted as misses"] == 1
    assert refusals.total == 1


def test_broken_lists_are_refused_and_their_users_miss(tmp_path: Path) -> None:
    truth, _ = truth_of(tmp_path, split("ann", "x"), split("bob", "x"), split("cleo", "x"))
    lists, refusals = judged(
        tmp_path,
        truth,
        ranked("ann", "x"),
        ranked("ann", "a", "x"),
        {"user_id": "bob"},
        "[]",
        ranked("cleo"),
    )
    assert lists.ranks.tolist() == [1, 0, 0]
    assert refusals.total == 3
    assert lists.notes["empty lists"] == 1
    assert lists.shortest == 0
    with pytest.raises(InputError, match=r"whose truth is known; do the ids match\?"):
        judged(tmp_path, truth, ranked("nobody", "x"))
    for wrong in ({"user_id": "ann", "results": ["x"]}, {"user_id": "ann", "items": ["x"]}):
        with pytest.raises(InputError, match=r"known; the first refusal: .*:1: results"):
            judged(tmp_path, truth, wrong)


def test_a_users_own_output_is_read_again(tmp_path: Path) -> None:
    """What `p4r rerank --output` writes has more in it."""
    truth, _ = truth_of(tmp_path, split("ann", "x"))
    entry: dict[str, Any] = {
        "score": None,
        "generator_score": 0.5,
        "persona_id": "x_P1",
        "because": [],
    }
    row = ranked("ann", {"item_id": "a", **entry}, {"item_id": "x", **entry}, personalized=True)
    lists, refusals = judged(tmp_path, truth, row)
    assert lists.ranks.tolist() == [2]
    assert refusals.total == 0


def test_training_interactions(tmp_path: Path) -> None:
    reviews = write(
        tmp_path,
        "reviews.jsonl",
        [
            review("bob", "b"),
            review("bob", "a"),
            review("bob", "a", timestamp=9),
            review("ann", "x"),
            review("ann", "a"),
            "{",
            review("cleo", "a", timestamp=1_700_000_000_000),
            review("cleo", "a", rating=900),
        ],
    )
    refusals = Refusals()
    found = read_interactions(reviews, {("ann", "x")}, refusals)
    assert (found.users, found.items) == (["ann", "bob"], ["a", "b"])
    assert list(zip(found.user_of.tolist(), found.item_of.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 1),
    ]
    assert found.user_counts().tolist() == [1, 2]
    assert found.item_counts().tolist() == [2, 1]
    less = found.without_items({"a"})
    assert (less.users, less.items) == (["bob"], ["b"])
    assert (less.user_of.tolist(), less.item_of.tolist(), less.age_of.tolist()) == ([0], [0], [0])
    more = found.with_items(["aa", "b"])
    assert (more.items, more.item_counts().tolist()) == (["a", "aa", "b"], [2, 0, 1])
    assert found.known_items == {"a", "b", "x"}
    assert refusals.total == 3
    with pytest.raises(InputError, match="no training interaction"):
        read_interactions(
            reviews, {("ann", "x"), ("ann", "a"), ("bob", "a"), ("bob", "b")}, refusals
        )


def test_the_newest_interaction_has_age_0(tmp_path: Path) -> None:
    """Ties by item id; of a repeated pair the newest counts; without a time it is the oldest."""
    rows = [
        review("ann", "old", timestamp=1),
        review("ann", "a", timestamp=5),
        review("ann", "b", timestamp=5),
        review("ann", "old", timestamp=9),
        {"user_id": "ann", "item_id": "c"},
        review("bob", "a", timestamp=2),
    ]
    for order in (rows, rows[::-1]):
        found = read_interactions(write(tmp_path, "reviews.jsonl", order), set(), Refusals())
        named = [found.items[item] for item in found.item_of]
        assert list(zip(found.user_of.tolist(), named, found.age_of.tolist(), strict=True)) == [
            (0, "a", 2),
            (0, "b", 1),
            (0, "c", 3),
            (0, "old", 0),
            (1, "a", 0),
        ]


def test_segments(tmp_path: Path) -> None:
    # Ten users with 1, 1, 1, 3, 4, 5, 6, 7, 8, 9 training interactions with items i0, i1, ...
    lengths = [1, 1, 1, 3, 4, 5, 6, 7, 8, 9]
    rows = [review(f"u{user}", f"i{item}") for user, n in enumerate(lengths) for item in range(n)]
    reviews = write(tmp_path, "reviews.jsonl", [*rows, review("u0", "new"), review("u9", "i9")])
    held_out = ["new", "i1", "i8", "i9", "outside", "i9", "i9", "i9", "i9", "i9"]
    truth, _ = truth_of(tmp_path, *(split(f"u{n}", item) for n, item in enumerate(held_out)))
    training = read_interactions(reviews, truth.held_out, Refusals())
    found = {one.name: one for one in segments(truth, training)}
    assert np.flatnonzero(found["cold users"].members).tolist() == [0, 1, 2], "equals together"
    assert found["cold users"].rule == "up to 1 interactions"
    assert np.flatnonzero(found["warm users"].members).tolist() == [8, 9]
    # Nine items; the two most popular are i0 (10 users) and i1 (7).
    assert np.flatnonzero(found["head items"].members).tolist() == [1]
    assert found["head items"].rule == "7+ users"
    assert (found["tail items"].members == ~found["head items"].members).all()

    path = write(tmp_path, "lists.jsonl", [ranked(f"u{n}", "i1") for n in range(10)])
    evaluation = evaluate_files(
        EvaluationFiles(path, tmp_path / "truth.jsonl", reviews=reviews), Refusals()
    )
    assert evaluation.notes == {
        "users whose item is outside the catalogue": 1,
        "users whose item has no training interaction": 7,
    }
    parts = {part.name: part for part in evaluation.parts}
    assert parts["head items"].metrics["HR@5"].mean == 1
    assert parts["all users"].metrics["HR@5"].mean == pytest.approx(1 / 10)
    assert parts["warm users"].users == 2


def test_histories_that_are_all_alike_are_neither_warm_nor_cold(tmp_path: Path) -> None:
    reviews = write(tmp_path, "reviews.jsonl", [review(f"u{n}", f"i{n}") for n in range(5)])
    truth, _ = truth_of(tmp_path, *(split(f"u{n}", "x") for n in range(5)))
    training = read_interactions(reviews, truth.held_out, Refusals())
    assert [one.name for one in segments(truth, training)] == ["tail items"]


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(40)]
    truth = write(tmp_path, "truth.jsonl", [split(user, "x") for user in users])
    good = write(tmp_path, "good.jsonl", [ranked(user, "x", "a") for user in users])
    bad = write(tmp_path, "bad.jsonl", [ranked(user, "a", "x") for user in users[:30]])
    evaluation = evaluate_files(EvaluationFiles(good, truth, against=bad), Refusals())
    [everybody] = evaluation.parts
    assert everybody.against_ceiling == pytest.approx(0.75)
    gap = everybody.differences["MRR@5"]
    assert gap.mean == pytest.approx(1 - 0.75 / 2)
    assert gap.p < 0.01
    record = json.loads(json.dumps(evaluation.record(), allow_nan=False))
    assert record["parts"][0]["differences"]["MRR@5"]["mean"] == pytest.approx(gap.mean)
    assert record["against_lists"]["notes"] == {"users without a list, counted as misses": 10}


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["user_id", "results", "item_id", "score", "test_item", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.lists(WILD, max_size=6))
def test_whatever_stands_in_a_file_is_refused_or_counted(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, _ = truth_of(folder, split("ann", "x"))
        lists, refusals = judged(folder, truth, ranked("ann", "a", "x"), *map(json.dumps, rows))
        assert lists.ranks.tolist() == [2]
        others = lists.notes["lists of users without truth, ignored"]
        assert refusals.total + others == len(rows)
        found, refusals = truth_of(folder, split("ann", "x"), *map(json.dumps, rows))
        assert len(found.items) - 1 + refusals.total == len(rows)
