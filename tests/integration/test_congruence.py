"""Both engines against the brute force, over wild catalogues; and broken engines, found out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from p4r_qdrant import PersonaIndex
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.payload import Floats
from tests.oracle import DIMENSION, Catalogue, assert_congruent, catalogues, queries

SUITE = settings(
    max_examples=40,
    deadline=None,
    # One index serves all examples: each fills it anew.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def refill(index: PersonaIndex, catalogue: Catalogue) -> None:
    """Put one catalogue in place of another, through every way of writing."""
    for personas in list(index.items()):
        if personas[0].item_id not in catalogue.vectors:
            index.delete_item(personas[0].item_id)
    rows = catalogue.rows()
    assert index.load(rows[::2]) == len(rows[::2])
    for row in rows[1::2]:
        assert index.replace_item(row.item_id, row.personas, row.vectors, row.fields)


def check(index: PersonaIndex, data: st.DataObject) -> None:
    catalogue = data.draw(catalogues())
    refill(index, catalogue)
    for _ in range(3):
        users, candidates, wanted = data.draw(queries(catalogue))
        assert_congruent(index, catalogue, users, candidates, wanted)
    stats = index.stats()
    assert stats.items == len(catalogue.vectors)
    assert stats.personas == sum(map(len, catalogue.vectors.values()))


@SUITE
@given(data=st.data())
def test_the_engine_gives_the_brute_force_answers(index: PersonaIndex, data: st.DataObject) -> None:
    check(index, data)


Best = list[dict[str, tuple[float, str]]]
Scoring = Callable[[Floats, list[list[str]], list[Condition]], Best]


def drop_a_candidate(right: Scoring) -> Scoring:
    """Loses the last candidate that has personas."""

    def broken(vectors: Floats, candidates: list[list[str]], conditions: list[Condition]) -> Best:
        found = right(vectors, candidates, conditions)
        for best in found:
            if best:
                best.popitem()
        return found

    return broken


def ignore_the_filter(right: Scoring) -> Scoring:
    def broken(vectors: Floats, candidates: list[list[str]], _: list[Condition]) -> Best:
        return right(vectors, candidates, [])

    return broken


def take_the_mean(right: Scoring) -> Scoring:
    """Scores an item by all its personas rather than by the best one."""

    def broken(vectors: Floats, candidates: list[list[str]], conditions: list[Condition]) -> Best:
        found = right(vectors, candidates, conditions)
        # The mean over an item's vectors, from the worst (the best against -u) and the best.
        worst = right(-vectors, candidates, conditions)
        return [
            {one: ((score - low[one][0]) / 2, point) for one, (score, point) in best.items()}
            for best, low in zip(found, worst, strict=True)
        ]

    return broken


@pytest.mark.parametrize("fault", [drop_a_candidate, ignore_the_filter, take_the_mean])
def test_a_broken_engine_fails_the_same_suite(
    index: PersonaIndex, fault: Callable[[Scoring], Scoring], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_best_points", fault(index._best_points))

    @settings(SUITE, report_multiple_bugs=False, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def suite(data: st.DataObject) -> None:
        check(index, data)

    with pytest.raises((AssertionError, KeyError)):
        suite()


def large_catalogue(items: int) -> Catalogue:
    random = np.random.default_rng(7)
    return Catalogue(
        {
            f"item-{number}": random.standard_normal((1 + number % 7, DIMENSION))
            for number in range(items)
        }
    )


def test_ten_thousand_candidates_in_one_call(index: PersonaIndex) -> None:
    catalogue = large_catalogue(3000)
    index.load(catalogue.rows())
    candidates = [f"item-{number}" for number in range(10_000)]  # most have no personas
    users = np.random.default_rng(8).standard_normal((2, DIMENSION))
    assert_congruent(index, catalogue, users, [candidates, candidates[:2500]])


def test_a_hundred_users_in_one_call(index: PersonaIndex) -> None:
    catalogue = large_catalogue(200)
    index.load(catalogue.rows())
    random = np.random.default_rng(9)
    candidates = [[f"item-{n}" for n in random.integers(0, 220, 50)] for _ in range(100)]
    users = random.standard_normal((100, DIMENSION))
    assert_congruent(index, catalogue, users, candidates)


def test_an_item_with_more_personas_than_the_settings_allow_is_still_whole(
    index: PersonaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have written it under other settings."""
    many: dict[str, Any] = {
        f"item-{number}": np.random.default_rng(number).standard_normal((200, DIMENSION))
        for number in range(3)
    }
    catalogue = Catalogue(many)
    monkeypatch.setattr(index, "max_personas", 256)
    index.load(catalogue.rows())
    monkeypatch.setattr(index, "max_personas", 7)
    assert_congruent(index, catalogue, np.ones((1, DIMENSION)), [list(many)])
    assert_congruent(index, catalogue, np.ones((1, DIMENSION)), [list(many)], {"stock": {"not": 1}})


def test_an_item_with_as_many_personas_as_there_can_be(
    index: PersonaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(4)
    catalogue = Catalogue({"full": random.standard_normal((256, DIMENSION))})
    monkeypatch.setattr(index, "max_personas", 256)
    index.load(catalogue.rows())
    for allowed in (256, 7):
        monkeypatch.setattr(index, "max_personas", allowed)
        assert_congruent(index, catalogue, np.ones((1, DIMENSION)), [["full", "missing"]])


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"offers[].stock": True}, True),
        ({"offers[0].stock": True}, True),
        ({"offers[1].stock": True}, False),
        ({"flags[0]": True}, True),
        ({"flags[1]": True}, False),
        ({"flags": False}, True),
        ({"offers[].stock": {"not": True}}, False),
        ({"deep.inner": True}, True),
        ({"deep.nothing": True}, False),
        ({"deep.nothing": {"not": True}}, True),
    ],
)
def test_nested_truth_values(index: PersonaIndex, wanted: dict[str, Any], matches: bool) -> None:
    fields = {
        "offers": [{"stock": True}, {"stock": False}],
        "flags": [True, False],
        "deep": {"inner": True},
    }
    catalogue = Catalogue({"one": np.ones((1, DIMENSION))}, {"one": fields})
    index.load(catalogue.rows())
    found = index.best_personas(np.ones((1, DIMENSION)), [["one"]], wanted)[0][0]
    assert (found.score is not None) is matches
