"""Both engines against the brute force, over wild catalogues; and broken engines, found out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from p4r_qdrant import Persona, PersonaIndex, PersonaReranker, Settings
from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import InputError, VectorError
from p4r_qdrant.index import matching
from p4r_qdrant.index.query import unit_directions
from p4r_qdrant.records import Because, Interaction
from p4r_qdrant.settings import HistorySettings, RerankSettings
from tests.support.congruence import SUITE, check, refill
from tests.support.engines import opened
from tests.support.oracle import (
    DIMENSION,
    Catalogue,
    Wanted,
    assert_congruent,
    assert_ranking_is_congruent,
    catalogues,
    queries,
    vectors,
)


@SUITE
@given(data=st.data())
def test_the_engine_gives_the_brute_force_answers(index: PersonaIndex, data: st.DataObject) -> None:
    check(index, data)


Best = list[dict[str, tuple[float, str]]]
Scoring = Callable[..., Best]


def drop_a_candidate(right: Scoring) -> Scoring:
    """Loses the last candidate that has personas."""

    def broken(*asked: Any) -> Best:
        found = right(*asked)
        for best in found:
            if best:
                best.popitem()
        return found

    return broken


def ignore_the_filter(right: Scoring) -> Scoring:
    def broken(vectors: Floats, candidates: list[list[str]], _: Any, *more: Any) -> Best:
        return right(vectors, candidates, [], *more)

    return broken


def take_the_mean(right: Scoring) -> Scoring:
    """Scores an item by all its personas rather than by the best one."""

    def broken(vectors: Floats, candidates: list[list[str]], conditions: Any, *_: Any) -> Best:
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
    monkeypatch.setattr(index.engine, "best_points", fault(index.engine.best_points))

    @settings(SUITE, report_multiple_bugs=False, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def suite(data: st.DataObject) -> None:
        check(index, data)

    with pytest.raises((AssertionError, KeyError)):
        suite()


# --- several interests, and a persona prior ----------------------------------------------------


class Told(Encoder):
    """Says of each text what it was told to: the interactions of a test, as vectors."""

    def __init__(self, vectors: Mapping[str, npt.ArrayLike]) -> None:
        self.name, self.fingerprint, self.dimension = "by hand", "test", DIMENSION
        self._vectors = vectors

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        return normalised(np.array([self._vectors[text] for text in batch]))


def check_options(index: PersonaIndex, data: st.DataObject) -> None:
    """The reranker on this engine, with options, against the brute force."""
    catalogue = data.draw(catalogues())
    typical = 0.3 * np.array(data.draw(vectors()))
    index.record_typical_user(typical.astype(np.float32))
    refill(index, catalogue)  # after it: the prior holds for what comes later
    histories = [data.draw(st.lists(vectors(), min_size=1, max_size=5)) for _ in range(2)]
    decay = data.draw(st.sampled_from([0.5, 1.0]))
    interests = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    prior = data.draw(st.sampled_from([0.0, 0.5, 2.0]))
    users = [Wanted(np.array(one), decay, interests, prior, typical) for one in histories]
    weights = decay ** np.arange(5)[:, None]
    for one in users:  # somebody whose interactions cancel out is unknown
        assume(
            np.linalg.norm(np.sum(normalised(one.embeddings) * weights[: len(one.embeddings)], 0))
            > 0.1
        )
    reranker = PersonaReranker(
        index,
        Told(
            {f"{user}-{n}": row for user, own in enumerate(histories) for n, row in enumerate(own)}
        ),
        history=HistorySettings(length=5, decay=decay),
        rerank=RerankSettings(interests=interests, prior=prior),
    )
    told = [
        [Interaction(str(n), -n, f"{user}-{n}") for n in range(len(own))]
        for user, own in enumerate(histories)
    ]
    candidates = sorted({*data.draw(queries(catalogue))[1][0], *catalogue.vectors})
    rankings = reranker.rerank_many(told, [candidates] * 2, explain=None)
    for user, ranking in zip(users, rankings, strict=True):
        assert_ranking_is_congruent(ranking.items, catalogue, user, candidates)
    for user, history in zip(users, told, strict=True):
        found = reranker.recommend(history, top=len(catalogue.vectors) or 1, seen=True)
        assert_ranking_is_congruent(found.items, catalogue, user, catalogue.vectors)


@SUITE
@given(data=st.data())
def test_options_give_the_brute_force_answers(index: PersonaIndex, data: st.DataObject) -> None:
    check_options(index, data)


def forget_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions of different lengths are all taken for unit vectors."""
    monkeypatch.setattr(
        matching,
        "unit_directions",
        lambda rows: (unit_directions(rows)[0], np.ones(len(rows))),
    )


def take_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest interaction is asked about."""
    right = UserVector.directions
    monkeypatch.setattr(UserVector, "directions", lambda own, share: right(own, share)[:1])


def blame_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The explanation names the newest interaction instead of the one that won."""

    def broken(own: UserVector, persona: Floats, interests: float = 0.0) -> tuple[Because, ...]:
        newest = own.interactions[0]
        found = {one.item_id: one for one in right(own, persona, interests)}
        first = found.pop(newest.item_id, Because(newest.item_id, "", 0.0, 0.0))
        return (first, *found.values())

    right = UserVector.because
    monkeypatch.setattr(UserVector, "because", broken)


@pytest.mark.parametrize("fault", [forget_lengths, take_the_newest, blame_the_newest])
def test_broken_options_fail_the_same_suite(
    index: PersonaIndex,
    fault: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)

    @settings(SUITE, report_multiple_bugs=False, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def suite(data: st.DataObject) -> None:
        check_options(index, data)

    with pytest.raises(AssertionError):
        suite()


def test_the_typical_user_stays_with_the_index(index_settings: Settings) -> None:
    typical = np.linspace(-0.2, 0.3, DIMENSION, dtype=np.float32)
    with opened(index_settings) as index:
        assert index.metadata.typical is None
        with pytest.raises(VectorError, match="a typical user has 8 finite numbers"):
            index.record_typical_user(typical[:3])
        index.record_typical_user(typical)
        index.record(published_at="now")
    with opened(index_settings) as index:
        assert index.metadata.typical is not None
        assert index.metadata.typical.tolist() == typical.tolist()
        assert index.metadata.published_at == "now"
        index.load(large_catalogue(3).rows())
        reranker = PersonaReranker(index, rerank=RerankSettings(prior=1.0))
        user = np.eye(1, DIMENSION)[0]
        for item in reranker.rerank(user, ["item-0", "item-1"]).items:
            rows = large_catalogue(3).vectors[item.item_id]
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            assert item.persona_score == pytest.approx(max(unit @ (user - typical)), abs=1e-5)


@pytest.mark.parametrize("equal", [1, 3])
def test_the_first_of_equal_items(index: PersonaIndex, equal: int) -> None:
    """So many personas of each of 40 items are the same: 120 points may have one score."""
    own = np.eye(2, DIMENSION, dtype=np.float32)
    item_ids = [f"item-{number:02}" for number in range(40)]
    for item_id in reversed(item_ids):
        rows = np.stack([own[1]] * (3 - equal) + [own[0]] * equal)
        personas = [
            Persona(persona_id=f"p{n}", name="n", description="d", preference_rationale="r")
            for n in range(3)
        ]
        index.replace_item(item_id, personas, rows)
    for top in (1, 10, 39, 40, 99):
        [found] = index.best_personas(own[:1], [[*item_ids, "none"]], top=top)
        shown = [match.item_id for match in found]
        assert shown == [*item_ids, "none"][:top]
        winners = {one.persona.persona_id for one in found if one.persona}
        assert winners == {f"p{3 - equal}"}
    both = [own]  # an item counts by its better direction
    [found] = index.best_personas(both, [item_ids], top=2)
    assert [match.item_id for match in found] == item_ids[:2]
    [found] = index.best_personas([np.stack([own[0], 0 * own[1]])], [item_ids], top=2)
    assert [match.item_id for match in found] == item_ids[:2]


def test_directions_that_cannot_be(index: PersonaIndex) -> None:
    index.load(large_catalogue(2).rows())
    zero = np.zeros((1, DIMENSION), np.float32)
    [found] = index.best_personas([zero], [["item-0", "item-1"]])
    assert [one.score for one in found] == [0, 0], "nobody is nearer than anybody"
    for wrong, sentence in (
        (np.full((2, DIMENSION), np.nan), "vector 0 of user 0 holds NaN"),
        (np.ones((2, 3)), r"user 0 have the shape \(2, 3\)"),
        (np.ones((0, DIMENSION)), "at least one direction"),
    ):
        with pytest.raises(VectorError, match=sentence):
            index.best_personas([wrong], [["item-0"]])
    with pytest.raises(InputError, match="1 user vectors but 2 candidate lists"):
        index.best_personas([zero], [["item-0"], ["item-1"]])


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
    monkeypatch.setattr(index.engine, "max_personas", 256)
    index.load(catalogue.rows())
    monkeypatch.setattr(index.engine, "max_personas", 7)
    assert_congruent(index, catalogue, np.ones((1, DIMENSION)), [list(many)])
    assert_congruent(index, catalogue, np.ones((1, DIMENSION)), [list(many)], {"stock": {"not": 1}})


def test_an_item_with_as_many_personas_as_there_can_be(
    index: PersonaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(4)
    catalogue = Catalogue({"full": random.standard_normal((256, DIMENSION))})
    monkeypatch.setattr(index.engine, "max_personas", 256)
    index.load(catalogue.rows())
    for allowed in (256, 7):
        monkeypatch.setattr(index.engine, "max_personas", allowed)
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
