"""The one score of persona, collaborative and generator parts, and what is missing of it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import Interaction, PersonaReranker, Ranking
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.records import Parts
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import Combined, combined, standard_columns, standardised
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.settings import RerankSettings
from tests.support.collaborative_index import CollaborativeMemoryIndex
from tests.support.hash_encoder import HashEncoder
from tests.support.oracle import persona

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
B = {("map", "north"): 0.6, ("pan", "north"): 0.2, ("map", "east"): -0.3, ("pan", "cold"): 0.4}
HAS = {"map": "The Map", "pan": "One Ring, One Pan"}
STANDARD = RerankSettings(fusion="standard")
SCORED = [("east", 0.9), ("north", 0.5), ("cold", 0.1)]


def index_of(weights: Any = B, decay: float = 1.0) -> CollaborativeMemoryIndex:
    """`cold` has no personas."""
    index = CollaborativeMemoryIndex(weights, decay, dimension=2)
    for item_id, row in (("east", EAST), ("north", NORTH), ("south", [0.0, -1.0])):
        one = persona(f"{item_id}_P0").model_copy(update={"name": "The Sailor"})
        index.replace_item(item_id, [one], [row], {"shelf": item_id[0], "domain": "books"})
    return index


@pytest.fixture
def index() -> CollaborativeMemoryIndex:
    return index_of()


def ids(ranking: Ranking) -> list[str]:
    return [item.item_id for item in ranking.items]


def z(*values: float) -> list[float]:
    found = np.array(values)
    return list((found - found.mean()) / found.std())


def standard_scores(*given: Any, **more: Any) -> Combined | None:
    *scores, weighed = given
    return combined(standard_columns(*scores, **more), weighed)


def weights(personas: float, collaborative: float, generator: float) -> RerankSettings:
    return RerankSettings(
        fusion="standard",
        persona_weight=personas,
        collaborative_weight=collaborative,
        generator_weight=generator,
    )


# --- the score by itself -----------------------------------------------------------------------


def test_each_part_is_standardised_over_the_candidates_and_weighted() -> None:
    found = standard_scores(
        [("a", 5.0), ("b", 3.0), ("c", 1.0)],
        {"a": 0.1, "b": 0.3, "c": 0.2},
        {"c": 2.0},
        Weights(personas=1, collaborative=2, generator=1),
    )
    assert found is not None
    parts = [z(0.1, 0.3, 0.2), z(0, 0, 2), z(5, 3, 1)]
    expected = [(p + 2 * c + g) / 4 for p, c, g in zip(*parts, strict=True)]
    assert found.scores == pytest.approx(expected)
    assert found.order().tolist() == sorted(range(3), key=lambda one: -expected[one])
    last = found.parts()[2]
    assert (last.personas, last.collaborative, last.generator) == pytest.approx(
        (parts[0][2] / 4, 2 * parts[1][2] / 4, parts[2][2] / 4)
    )


def test_an_item_without_personas_gets_the_mean_of_the_others() -> None:
    found = standard_scores(
        [("a", 1.0), ("b", 1.0), ("c", 1.0)], {"a": 0.1, "b": None, "c": 0.3}, None, Weights()
    )
    assert found is not None
    assert [one.personas for one in found.parts()] == pytest.approx([-0.5, 0.0, 0.5])
    assert [one.collaborative for one in found.parts()] == [None] * 3
    assert [one.generator for one in found.parts()] == [0.0] * 3


def test_without_scores_of_the_generator_its_ranks_count() -> None:
    found = standard_scores(
        [("a", 1.0), ("b", None), ("c", 0.5)], None, None, Weights(personas=0, collaborative=0)
    )
    assert found is not None
    assert found.scores == pytest.approx(z(*-np.log([1, 2, 3])))


def test_a_missing_part_leaves_the_weights_to_the_others() -> None:
    found = standard_scores([("a", 1.0), ("b", 0.0)], {"a": 0.0, "b": 1.0}, {}, Weights())
    assert found is not None
    assert found.parts() == [Parts(-0.5, None, 0.5), Parts(0.5, None, -0.5)]
    assert found.order().tolist() == [0, 1]


def test_nothing_that_counts() -> None:
    candidates = [("a", 1.0), ("b", 0.0)]
    assert standard_scores(candidates, None, {}, Weights(generator=0)) is None
    alone = standard_scores(candidates, None, None, Weights(), has_generator=False)
    assert alone is None


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, 1e-300, -7e300])
def test_equal_values_are_all_zero(value: float) -> None:
    assert standardised(np.full((1, 3), value), 0.0).tolist() == [[0.0, 0.0, 0.0]]


def test_rounding_of_float32_is_no_difference() -> None:
    values = np.array([[0.5, 0.5 + 6e-8, 0.5]])
    assert not standardised(values, 1e-6).any()


Score = st.floats(-1e300, 1e300)


@given(
    st.lists(st.tuples(Score, Score | st.none(), st.floats(-1, 1) | st.none()), min_size=1),
    st.floats(0, 1000),
)
def test_weights_of_zero_keep_the_generators_order_and_all_scores_are_finite(
    rows: list[tuple[float, float | None, float | None]], weight: float
) -> None:
    candidates = [(str(place), row[1]) for place, row in enumerate(rows)]
    personas = {str(place): row[2] for place, row in enumerate(rows)}
    together = {str(place): row[0] for place, row in enumerate(rows)}
    alone = Weights(personas=0, collaborative=0, generator=1)
    found = standard_scores(candidates, personas, together, alone)
    assert found is not None
    assert found.order().tolist() == list(range(len(rows)))
    mixed = standard_scores(candidates, personas, together, Weights(personas=weight))
    assert mixed is not None
    assert np.isfinite(mixed.scores).all()
    assert sorted(mixed.order().tolist()) == list(range(len(rows)))
    for score, one in zip(mixed.scores, mixed.parts(), strict=True):
        assert score == pytest.approx(sum(vars_of(one)), abs=1e-9)


def vars_of(one: Parts) -> list[float]:
    return [
        value for value in (one.personas, one.collaborative, one.generator) if value is not None
    ]


# --- the reranker ------------------------------------------------------------------------------


def test_all_three_parts(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(user, SCORED)
    parts = {
        "east": (z(1, 0)[0], z(-0.3, 0.8, 0.4)[0], z(0.9, 0.5, 0.1)[0]),
        "north": (z(1, 0)[1], z(-0.3, 0.8, 0.4)[1], z(0.9, 0.5, 0.1)[1]),
        "cold": (0.0, z(-0.3, 0.8, 0.4)[2], z(0.9, 0.5, 0.1)[2]),
    }
    assert ids(ranking) == sorted(parts, key=lambda one: -sum(parts[one]))
    assert ranking.personalized
    for item in ranking.items:
        assert item.parts is not None
        assert vars_of(item.parts) == pytest.approx([one / 3 for one in parts[item.item_id]])
        assert item.score == pytest.approx(sum(parts[item.item_id]) / 3)
    assert index.calls.count("best_points") == 1
    assert index.calls.count("collaborative_scores") == 1


def test_both_reasons_and_one_sentence(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(NORTH, dtype=np.float32), HAS)
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(user, SCORED, explain=2)
    north, cold = ranking.items[0], next(one for one in ranking.items if one.item_id == "cold")
    assert [one.title for one in north.chosen_with] == ["The Map", "One Ring, One Pan"]
    assert [one.share for one in north.chosen_with] == pytest.approx([0.75, 0.25])
    assert north.why == "for the Sailor; readers of The Map chose it too"
    assert cold.why == "users of One Ring, One Pan chose it too"
    assert ranking.items[-1].chosen_with == ()


def test_items_that_speak_against_are_no_reason(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), {"map": "The Map"})
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(user, SCORED)
    [east] = [one for one in ranking.items if one.item_id == "east"]
    assert east.collaborative_score == pytest.approx(-0.3)
    assert east.why == "for the Sailor"


def test_weights_by_call_by_setting_and_as_recorded(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    index.record_scoring(
        candidates={"personas": 0, "collaborative": 1, "generator": 0},
        catalogue={"personas": 1, "collaborative": 0},
    )
    recorded = PersonaReranker(index)
    assert ids(recorded.rerank(user, SCORED)) == ["north", "cold", "east"]
    assert ids(recorded.rerank(user, SCORED, rerank=weights(1, 0, 0)))[0] == "east"
    assert ids(recorded.rerank(user, SCORED, rerank=RerankSettings(fusion="none"))) == [
        *("east", "north", "cold")
    ]
    set_here = PersonaReranker(index, rerank=weights(0, 0, 1))
    assert ids(set_here.rerank(user, SCORED)) == ["east", "north", "cold"]
    changed = RerankSettings(collaborative_weight=9)
    assert ids(set_here.rerank(user, SCORED, rerank=changed)) == ["north", "cold", "east"]


def test_weights_of_one_kind_stand_in_for_the_other(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    index.record_scoring(catalogue={"personas": 0, "collaborative": 1, "generator": 0})
    assert ids(PersonaReranker(index).rerank(user, SCORED)) == ["north", "cold", "east"]


def test_recorded_weights_that_cannot_be_read(index: CollaborativeMemoryIndex) -> None:
    index.record_scoring(candidates={"personas": -1})
    with pytest.raises(IndexMismatchError, match="publish it again"):
        PersonaReranker(index).rerank(EAST, SCORED)


def test_the_generators_order_where_only_it_has_a_weight(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(NORTH, dtype=np.float32), HAS)
    mixed = [("cold", 0.1), ("east", 0.9), ("north", 0.5)]  # not in the order of the scores
    ranking = PersonaReranker(index, rerank=weights(0, 0, 1)).rerank(user, mixed)
    assert ids(ranking) == ["cold", "east", "north"]
    assert "collaborative_scores" not in index.calls


@pytest.mark.parametrize("user", [None, [], KnownUser(None), KnownUser(None, {"other": ""})])
def test_somebody_unknown_keeps_the_generators_order(
    user: Any, index: CollaborativeMemoryIndex
) -> None:
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(user, SCORED)
    assert ids(ranking) == ["east", "north", "cold"]
    assert not ranking.personalized
    assert [one.score for one in ranking.items] == [None] * 3


def test_a_user_without_texts_has_the_collaborative_part(index: CollaborativeMemoryIndex) -> None:
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(KnownUser(None, HAS), SCORED)
    assert ranking.personalized
    assert ids(ranking)[0] == "north"
    assert ranking.items[0].parts is not None
    assert ranking.items[0].parts.personas is None
    assert ranking.items[0].persona is None


@pytest.mark.parametrize(
    "user", [EAST, KnownUser(np.array(EAST, dtype=np.float32), {"unknown": ""})]
)
def test_a_user_whose_items_are_unknown_has_no_collaborative_part(
    user: Any, index: CollaborativeMemoryIndex
) -> None:
    ranking = PersonaReranker(index, rerank=STANDARD).rerank(user, ["north", "east", "cold"])
    assert ids(ranking)[0] == "east"
    assert all(one.parts and one.parts.collaborative is None for one in ranking.items)


def test_an_index_without_the_part(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    bare = PersonaReranker(index_of(None), rerank=STANDARD)
    assert ids(bare.rerank(user, SCORED)) == ids(
        PersonaReranker(index, rerank=STANDARD).rerank(EAST, SCORED)
    )
    with pytest.raises(IndexMismatchError, match="p4r publish"):
        bare.rerank(user, SCORED, rerank=RerankSettings(collaborative_weight=1))


def test_a_filter_counts_before_the_parts_are_standardised(index: CollaborativeMemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=STANDARD)
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    found = reranker.rerank(user, SCORED, filter={"shelf": ["n", "e"]})
    alone = reranker.rerank(user, [("east", 0.9), ("north", 0.5)])
    assert ids(found) == ids(alone)
    assert [one.score for one in found.items] == pytest.approx([one.score for one in alone.items])


def test_the_whole_history_counts_and_its_age(index: CollaborativeMemoryIndex) -> None:
    aged = index_of(decay=0.5)
    user = KnownUser(None, {"other": "", **HAS})
    [north] = PersonaReranker(aged, rerank=STANDARD).rerank(user, ["north"]).items
    assert north.collaborative_score == pytest.approx(0.5 * 0.6 + 0.25 * 0.2)


def test_histories_and_many_users_at_once() -> None:
    encoder = HashEncoder(fingerprint="test")
    index = CollaborativeMemoryIndex(B, dimension=encoder.dimension)
    for item_id in ("east", "north"):
        rows = encoder.encode_texts([item_id])
        index.replace_item(item_id, [persona(f"{item_id}_P0")], rows)
    reranker = PersonaReranker(index, encoder, rerank=STANDARD)
    history = [Interaction(one, at, title=title) for at, (one, title) in enumerate(HAS.items())]
    users = [history, None, encoder.encode_texts(["east"])[0]]
    lists = [["east", "north"], ["north", "east"], ["north", "east"]]
    together = reranker.rerank_many(users, lists)
    assert together == [reranker.rerank(user, one) for user, one in zip(users, lists, strict=True)]
    [north] = [one for one in together[0].items if one.item_id == "north"]
    assert [one.item_id for one in north.chosen_with] == ["map", "pan"]


# --- the whole catalogue -----------------------------------------------------------------------


def test_recommendations_are_the_union_of_both_parts(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    found = PersonaReranker(index, rerank=STANDARD).recommend(user)
    assert set(ids(found)) == {"east", "north", "south", "cold"}
    best = PersonaReranker(index, rerank=STANDARD).recommend(user, top=2)
    assert best.items == found.items[:2]
    assert [one.generator_rank for one in found.items] == [0] * 4
    assert found.items[0].why


def test_items_already_seen_are_left_out_unless_they_are_wanted() -> None:
    index = index_of({**B, ("map", "pan"): 1.0})
    reranker = PersonaReranker(index, rerank=STANDARD)
    user = KnownUser(np.array(EAST, dtype=np.float32), {"map": "", "pan": "", "east": ""})
    assert not {"pan", "east"} & set(ids(reranker.recommend(user)))
    assert {"pan", "east"} <= set(ids(reranker.recommend(user, seen=True)))
    assert "north" not in ids(reranker.recommend(user, exclude=["north"]))


def test_recommendations_match_a_filter(index: CollaborativeMemoryIndex) -> None:
    user = KnownUser(np.array(EAST, dtype=np.float32), HAS)
    reranker = PersonaReranker(index, rerank=STANDARD)
    assert ids(reranker.recommend(user, filter={"shelf": "n"})) == ["north"]
    assert ids(reranker.recommend(user, filter={"shelf": "x"})) == []


@pytest.mark.parametrize(
    ("has", "expected"),
    [(HAS, ["north", "cold", "south", "east"]), ({"unknown": ""}, ["north", "east", "south"])],
)
def test_personas_fill_up_what_items_do_not_say(
    has: dict[str, str], expected: list[str], index: CollaborativeMemoryIndex
) -> None:
    """Of the items of HAS one speaks against `east`; of the others nothing is known."""
    user = KnownUser(np.array([0.6, 0.8], dtype=np.float32), has)
    found = PersonaReranker(index, rerank=weights(0, 1, 0)).recommend(user)
    assert ids(found) == expected


def test_a_user_without_texts_gets_what_items_say(index: CollaborativeMemoryIndex) -> None:
    found = PersonaReranker(index, rerank=STANDARD).recommend(KnownUser(None, HAS))
    assert ids(found) == ["north", "cold"]
    assert found.personalized


def test_somebody_unknown_gets_the_most_popular_items(index: CollaborativeMemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=STANDARD)
    assert reranker.recommend(None).items == ()
    index.record(popular='["north", "cold", "east"]')
    found = reranker.recommend(None, top=2, exclude=["cold"])
    assert ids(found) == ["north", "east"]
    assert not found.personalized
    assert [one.score for one in found.items] == [None, None]
    assert ids(reranker.recommend(None, filter={"shelf": "e"})) == ["east"]
    assert ids(PersonaReranker(index).recommend(None)) == ["north", "cold", "east"]
