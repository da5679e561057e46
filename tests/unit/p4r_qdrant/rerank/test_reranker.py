"""The reranker: order, explanation, fusion, and what happens to those without personas."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import Candidate, Interaction, PersonaReranker, Ranking
from p4r_qdrant.errors import IndexMismatchError, InputError, VectorError
from p4r_qdrant.rerank.candidates import CandidateLike
from p4r_qdrant.settings import HistorySettings, RerankSettings
from tests.support.hash_encoder import HashEncoder
from tests.support.memory_index import MemoryIndex
from tests.support.oracle import persona

EAST, NORTH, BETWEEN = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def index_of(**items: list[list[float]]) -> MemoryIndex:
    index = MemoryIndex(dimension=2)
    for item_id, rows in items.items():
        texts = [persona(f"{item_id}_P{number}") for number in range(len(rows))]
        index.replace_item(item_id, texts, rows, {"shelf": item_id[0]})
    return index


def ids(ranking: Ranking) -> list[str]:
    return [item.item_id for item in ranking.items]


@pytest.fixture
def index() -> MemoryIndex:
    return index_of(east=[EAST], north=[NORTH, [-1.0, 0.0]], between=[BETWEEN, [0.0, -1.0]])


def test_an_item_scores_as_its_best_persona(index: MemoryIndex) -> None:
    ranking = PersonaReranker(index).rerank(EAST, ["north", "between", "east"])
    assert ids(ranking) == ["east", "between", "north"]
    assert [item.score for item in ranking.items] == pytest.approx([1.0, 0.6, 0.0])
    assert [item.rank for item in ranking.items] == [1, 2, 3]
    assert [item.generator_rank for item in ranking.items] == [3, 2, 1]
    first = ranking.items[0]
    assert first.persona is not None
    assert (first.persona.persona_id, first.persona.item_id) == ("east_P0", "east")
    assert ranking.personalized


def test_candidates_without_personas_keep_their_order_behind_the_others(
    index: MemoryIndex,
) -> None:
    ranking = PersonaReranker(index).rerank(NORTH, ["z", "east", "a", "north", "m"])
    assert ids(ranking) == ["north", "east", "z", "a", "m"]
    assert [item.score for item in ranking.items][2:] == [None, None, None]
    assert all(item.persona is None for item in ranking.items[2:])


def test_equal_scores_are_ordered_by_item_id() -> None:
    index = index_of(c=[EAST], a=[EAST], b=[EAST, NORTH])
    assert ids(PersonaReranker(index).rerank(EAST, ["c", "b", "a"])) == ["a", "b", "c"]


def test_repeated_candidates_count_once_at_their_first_place(index: MemoryIndex) -> None:
    ranking = PersonaReranker(index).rerank(EAST, [("north", 0.9), ("east", 0.8), ("north", 0.1)])
    assert ids(ranking) == ["east", "north"]
    assert ranking.items[1].generator_score == 0.9
    assert ranking.items[1].generator_rank == 1


@pytest.mark.parametrize("user", [None, [], ()])
def test_somebody_unknown_keeps_the_generators_order(index: MemoryIndex, user: None) -> None:
    ranking = PersonaReranker(index).rerank(user, ["north", "east", "z"], top=2)
    assert ids(ranking) == ["north", "east"]
    assert not ranking.personalized
    assert [item.score for item in ranking.items] == [None, None]
    assert "best_points" not in index.calls


def test_a_filter_keeps_only_candidates_known_to_match(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index)
    assert ids(reranker.rerank(EAST, ["north", "east", "z"], filter={"shelf": "n"})) == ["north"]
    unknown = reranker.rerank(None, ["north", "z", "between"], filter={"shelf": ["n", "b"]})
    assert ids(unknown) == ["north", "between"]
    assert not unknown.personalized


def test_top_cuts_and_explain_limits_the_texts(index: MemoryIndex) -> None:
    ranking = PersonaReranker(index).rerank(EAST, ["north", "between", "east"], top=2, explain=1)
    assert ids(ranking) == ["east", "between"]
    assert ranking.items[0].persona is not None
    assert ranking.items[1].persona is None
    assert ranking.items[1].score == pytest.approx(0.6)


def test_many_users_get_what_each_would_get_alone(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index)
    users = [np.array(EAST), None, NORTH]
    candidates: list[Sequence[CandidateLike]] = [
        ["north", "east"],
        ["z", "east"],
        [Candidate(item_id="between"), Candidate(item_id="north")],
    ]
    together = reranker.rerank_many(users, candidates)
    assert together == [
        reranker.rerank(user, one) for user, one in zip(users, candidates, strict=True)
    ]
    assert reranker.rerank_many([], []) == []


# --- histories ---------------------------------------------------------------------------------


def history(*texts: str) -> list[Interaction]:
    """The last text is the newest."""
    return [Interaction(f"i{n}", n, summary=text, title=text) for n, text in enumerate(texts)]


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder(fingerprint="test")


@pytest.fixture
def texts_index(encoder: HashEncoder) -> MemoryIndex:
    index = MemoryIndex(dimension=encoder.dimension)
    for item_id in ("ships", "cakes"):
        personas = [persona(f"{item_id}_P0", f"loves {item_id}")]
        index.replace_item(item_id, personas, encoder.encode_texts([f"{item_id} {item_id}"]))
    return index


def test_a_history_ranks_what_it_speaks_of_and_is_told_as_the_reason(
    texts_index: MemoryIndex, encoder: HashEncoder
) -> None:
    reranker = PersonaReranker(texts_index, encoder)
    user = history("cakes", "about ships", "ships ships")
    ranking = reranker.rerank(user, ["cakes", "ships"])
    assert ids(ranking) == ["ships", "cakes"]
    top = ranking.items[0]
    assert top.persona_score is not None
    assert top.because[0].item_id == "i2"
    assert sum(reason.contribution for reason in top.because) == pytest.approx(
        top.persona_score, abs=1e-6
    )
    assert sum(reason.share for reason in top.because) == pytest.approx(1.0, abs=1e-6)
    assert ids(reranker.rerank(history("cakes"), ["ships", "cakes"])) == ["cakes", "ships"]


def test_length_and_decay_are_the_settings(texts_index: MemoryIndex, encoder: HashEncoder) -> None:
    user = history("ships", "ships", "ships", "cakes")
    last = PersonaReranker(texts_index, encoder, history=HistorySettings(length=1))
    assert ids(last.rerank(user, ["ships", "cakes"]))[0] == "cakes"
    whole = PersonaReranker(texts_index, encoder, history=HistorySettings(decay=1.0))
    assert ids(whole.rerank(user, ["ships", "cakes"]))[0] == "ships"
    steep = PersonaReranker(texts_index, encoder, history=HistorySettings(decay=0.1))
    assert ids(steep.rerank(user, ["ships", "cakes"]))[0] == "cakes"


def test_a_history_without_any_text_is_as_good_as_none(
    texts_index: MemoryIndex, encoder: HashEncoder
) -> None:
    ranking = PersonaReranker(texts_index, encoder).rerank(
        [Interaction("i", 1)], ["ships", "cakes"]
    )
    assert not ranking.personalized


def test_another_encoder_than_the_indexs_is_refused_with_both_named(
    texts_index: MemoryIndex,
) -> None:
    with pytest.raises(IndexMismatchError, match=r"test.*other"):
        PersonaReranker(texts_index, HashEncoder(fingerprint="other"))


# --- several interests, and a persona prior ----------------------------------------------------


def test_several_interests_find_what_the_mean_does_not(
    texts_index: MemoryIndex, encoder: HashEncoder
) -> None:
    """One interaction out of four speaks of ships; the three others agree with each other."""
    user = history("ships", "cakes bread", "cakes bread", "cakes bread")
    for interests, first, reasons in ((0.0, "cakes", 4), (0.75, "ships", 4), (1.0, "ships", 1)):
        options = RerankSettings(interests=interests)
        ranking = PersonaReranker(texts_index, encoder, rerank=options).rerank(
            user, ["cakes", "ships"]
        )
        assert ids(ranking)[0] == first
        top = ranking.items[0]
        assert len(top.because) == reasons
        assert sum(one.share for one in top.because) == pytest.approx(1.0, abs=1e-6)
        contributions = sum(one.contribution for one in top.because)
        assert contributions == pytest.approx(top.persona_score, abs=1e-6)
        if interests:
            assert top.because[0].item_id == "i0", "the one that won comes first"


def test_a_described_person_finds_items(texts_index: MemoryIndex, encoder: HashEncoder) -> None:
    reranker = PersonaReranker(texts_index, encoder)
    found = reranker.search("cakes bread", top=2)
    assert found == texts_index.nearest_items(encoder.encode_queries(["cakes bread"])[0], 2)
    assert found[0].item_id == "cakes"
    with pytest.raises(InputError, match="describe the person in words"):
        reranker.search(" \n")


def test_a_vector_has_no_single_interests(index: MemoryIndex) -> None:
    candidates = ["north", "east", "between"]
    single = PersonaReranker(index, rerank=RerankSettings(interests=1.0))
    assert single.rerank(EAST, candidates) == PersonaReranker(index).rerank(EAST, candidates)


def test_a_persona_that_pleases_everybody_goes_down(index: MemoryIndex) -> None:
    """Typical user (0.5, 1): of north 1 is taken off, of east 0.5, of between 1.1; half of it."""
    index.record_typical_user(np.array([0.5, 1.0], dtype=np.float32))
    reranker = PersonaReranker(index, rerank=RerankSettings(prior=0.5))
    ranking = reranker.rerank([1.0, 1.0], ["north", "east", "between", "z"])
    half = 2**-0.5
    assert {one.item_id: one.persona_score for one in ranking.items} == pytest.approx(
        {"east": half - 0.25, "north": half - 0.5, "between": 1.4 * half - 0.55, "z": None}
    )
    assert [one.item_id for one in reranker.recommend([1.0, 1.0], top=3).items] == ids(ranking)[:3]
    assert ids(ranking)[0] == "east"
    assert ids(PersonaReranker(index).rerank([1.0, 1.0], ids(ranking)))[0] == "between"


def test_a_prior_needs_a_typical_user(index: MemoryIndex) -> None:
    """It is said when the reranker is made; and where a call alone asks for it, then."""
    asked = RerankSettings(prior=0.5)
    sentence = r"the memory of a test has no typical user.*p4r publish.*P4R_RERANK__PRIOR"
    with pytest.raises(IndexMismatchError, match=sentence):
        PersonaReranker(index, rerank=asked)
    reranker = PersonaReranker(index)
    with pytest.raises(IndexMismatchError, match=sentence):
        reranker.rerank(EAST, ["east"], rerank=asked)
    unknown = reranker.rerank(None, ["east"], rerank=asked)
    assert ids(unknown) == ["east"], "nobody to take it off for"


def test_a_call_sets_what_it_sets_and_no_more(index: MemoryIndex) -> None:
    index.record_typical_user(np.array([0.0, 1.0], dtype=np.float32))
    reranker = PersonaReranker(index, rerank=RerankSettings(prior=0.5, fusion="weighted"))
    found = reranker.rerank(EAST, ["north", "east"], rerank=RerankSettings(fusion="none"))
    assert found.items[1].score == pytest.approx(-0.5), "the prior stays"
    found = reranker.rerank(EAST, ["north"], rerank=RerankSettings(fusion="none", prior=0.0))
    assert found.items[0].score == pytest.approx(0.0)


# --- fusion ------------------------------------------------------------------------------------

GENERATED: list[CandidateLike] = [("north", 4.0), ("none", 3.0), ("between", 2.0), ("east", 0.0)]


def test_weighted_fusion_by_hand(index: MemoryIndex) -> None:
    """Personas 0, -, 0.6, 1; generator 1, 3/4, 1/2, 0 after scaling; weight 3/5."""
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="weighted", weight=0.6))
    ranking = reranker.rerank(EAST, GENERATED)
    w = Fraction(3, 5)
    expected = {
        "north": float((1 - w) * 1),
        "none": 0.75,  # judged by the generator alone
        "between": float(w * Fraction(6, 10) + (1 - w) * Fraction(1, 2)),
        "east": float(w),
    }
    assert {item.item_id: item.score for item in ranking.items} == pytest.approx(expected)
    assert ids(ranking) == ["none", "east", "between", "north"]
    assert ranking.items[1].persona_score == pytest.approx(1.0)
    assert ranking.items[1].persona is not None


def test_reciprocal_rank_fusion_by_hand(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="rrf", rrf_k=60))
    ranking = reranker.rerank(EAST, GENERATED)
    expected = {
        "north": (1 / 63 + 1 / 61) / 2,
        "none": 1 / 62,
        "between": (1 / 62 + 1 / 63) / 2,
        "east": (1 / 61 + 1 / 64) / 2,
    }
    assert {item.item_id: item.score for item in ranking.items} == pytest.approx(expected)


def test_fusion_explains_what_is_first_after_it(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="weighted", weight=0.0))
    top = reranker.rerank(EAST, GENERATED, top=1, explain=1).items[0]
    assert top.item_id == "north"
    assert top.persona is not None
    assert top.persona.persona_id == "north_P0"


def test_fusion_of_many_users_fetches_texts_once(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="weighted"))
    index.calls.clear()
    together = reranker.rerank_many([EAST, None, NORTH], [GENERATED] * 3)
    assert index.calls == ["best_points", "points"]
    assert [one.personalized for one in together] == [True, False, True]
    assert together[0] == reranker.rerank(EAST, GENERATED)
    assert together[2] == reranker.rerank(NORTH, GENERATED)
    assert together[2].items[0].persona is not None


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.sampled_from([0.0, 0.3, 1.0]))
def test_weighted_fusion_lies_between_its_parts(scores: list[float], weight: float) -> None:
    index = index_of(east=[EAST], north=[NORTH], between=[BETWEEN])
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="weighted", weight=weight))
    names = ["east", "north", "between", "none"]
    ranking = reranker.rerank(EAST, list(zip(names, scores, strict=True)))
    assert sorted(ids(ranking)) == sorted(names)
    fused = [item.score for item in ranking.items]
    assert all(score is not None and 0 <= score <= 1 for score in fused)
    assert fused == sorted(fused, key=lambda one: -(one or 0.0))


def test_weighted_fusion_needs_scores(index: MemoryIndex) -> None:
    reranker = PersonaReranker(index, rerank=RerankSettings(fusion="weighted"))
    with pytest.raises(InputError, match=r"'east' has none.*rrf"):
        reranker.rerank(EAST, [("north", 1.0), "east"])


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "candidates", "error", "sentence"),
    [
        (EAST, [], InputError, "user 0 has no candidates"),
        (EAST, "east", InputError, "not one text"),
        (EAST, [17], InputError, "17 of user 0 is neither an item id"),
        (
            EAST,
            [("east", "high")],
            InputError,
            "neither an item id nor a pair of an item id and a number",
        ),
        (EAST, [{"item_id": "east"}], InputError, "neither an item id"),
        (EAST, [None], InputError, "None of user 0"),
        (EAST, [(17, 0.5)], InputError, "17 of user 0 is not a string"),
        ([1.0, 2.0, 3.0], ["east"], VectorError, r"user 0.*\(1, 3\)"),
        ([0.0, 0.0], ["east"], VectorError, "user 0 is zero"),
        ([float("nan"), 1.0], ["east"], VectorError, "user 0 holds NaN"),
        ("a user id", ["east"], VectorError, "user 0"),
        (EAST, [("east", float("nan"))], InputError, "'east' is nan"),
        (history("ships"), ["east"], InputError, "no encoder"),
    ],
)
def test_bad_input_is_one_sentence(
    index: MemoryIndex, user: object, candidates: object, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        PersonaReranker(index).rerank(user, candidates)  # type: ignore[arg-type]


def test_top_must_be_positive_and_lists_must_pair(index: MemoryIndex) -> None:
    with pytest.raises(InputError, match="top must be at least 1"):
        PersonaReranker(index).rerank(EAST, ["east"], top=0)
    with pytest.raises(InputError, match="1 users but 2 candidate lists"):
        PersonaReranker(index).rerank_many([EAST], [["east"], ["north"]])
