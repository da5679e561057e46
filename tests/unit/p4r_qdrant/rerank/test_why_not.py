"""Why an item is not among the first, and the change of the history that lifts it: by brute force.

Every change that is reported is compared with re-ranking the changed history; where none is
reported, re-ranking without each own item lifts nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import Interaction, PersonaReranker
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.candidates import CandidateLike
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.settings import HistorySettings, RerankSettings
from tests.support.collaborative_index import CollaborativeMemoryIndex
from tests.support.hash_encoder import HashEncoder
from tests.support.oracle import persona

OWN = [f"own-{number}" for number in range(5)]
ITEMS = [f"item-{number}" for number in range(6)]
STANDARD = RerankSettings(fusion="standard")


class Planned(HashEncoder):
    """Encodes "x y" as the vector (x, y)."""

    def __init__(self) -> None:
        super().__init__(2)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        rows = np.array([[float(one) for one in text.split()[:2]] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def index_of(
    personas: dict[str, list[list[float]]],
    weights: dict[tuple[str, str], float] | None = None,
    decay: float = 1.0,
) -> CollaborativeMemoryIndex:
    encoder = Planned()
    index = CollaborativeMemoryIndex(weights, decay, dimension=2, fingerprint=encoder.fingerprint)
    for item_id, rows in personas.items():
        texts = [persona(f"{item_id}_P{number}") for number in range(len(rows))]
        index.replace_item(item_id, texts, rows, {"item_title": f"The {item_id}", "summary": "1 0"})
    return index


def past(*texts: str) -> list[Interaction]:
    """The first text is the newest; items own-0, own-1 ..."""
    return [
        Interaction(OWN[number], 100 - number, summary=text) for number, text in enumerate(texts)
    ]


def reranker_of(index: CollaborativeMemoryIndex, length: int = 3) -> PersonaReranker:
    history = HistorySettings(length=length, decay=0.85)
    return PersonaReranker(index, Planned(), history=history)


def rank_of(
    reranker: PersonaReranker,
    history: Sequence[Interaction],
    item_id: str,
    candidates: Sequence[CandidateLike],
    options: RerankSettings,
) -> int:
    ranking = reranker.rerank(history, candidates, explain=0, rerank=options)
    return next(one.rank for one in ranking.items if one.item_id == item_id)


numbers = st.integers(-3, 3).map(float)
vectors = st.lists(numbers, min_size=2, max_size=2).filter(lambda one: any(one))
fusions = st.sampled_from(
    [
        STANDARD,
        RerankSettings(fusion="none"),
        RerankSettings(fusion="rrf"),
        RerankSettings(fusion="standard", collaborative_weight=0),
        RerankSettings(fusion="standard", persona_weight=0),
        RerankSettings(fusion="standard", interests=0.5),
        RerankSettings(fusion="standard", persona_weight=0, collaborative_weight=0),
    ]
)


@given(st.data())
def test_what_is_reported_holds_when_it_is_done(data: st.DataObject) -> None:
    draw = data.draw
    personas: dict[str, list[list[float]]] = {
        one: draw(st.lists(vectors, min_size=1, max_size=2))
        for one in draw(st.lists(st.sampled_from(ITEMS), min_size=1, unique=True))
    }
    pairs = st.tuples(st.sampled_from(OWN), st.sampled_from(ITEMS))
    weights = draw(st.dictionaries(pairs, numbers, max_size=12))
    reranker = reranker_of(index_of(personas, weights, draw(st.sampled_from([1.0, 0.5]))))
    chosen: list[list[float]] = draw(st.lists(vectors, max_size=len(OWN)))
    history = past(*(f"{x} {y}" for x, y in chosen))
    is_repeated: bool = draw(st.booleans())
    if history and is_repeated:  # an item that was chosen twice
        history.append(Interaction(history[0].item_id, 1, summary="1 1"))
    item_id, top = draw(st.sampled_from(ITEMS)), draw(st.integers(1, 3))
    options = draw(fusions)

    found = reranker.why_not(history, item_id, ITEMS, top, rerank=options)

    before = rank_of(reranker, history, item_id, ITEMS, options)
    assert found.item.rank == before
    without = {
        own: rank_of(
            reranker,
            [one for one in history if one.item_id != own],
            item_id,
            ITEMS,
            options,
        )
        for own in {one.item_id for one in history}
    }
    lifting = {own: rank for own, rank in without.items() if rank <= top}
    if before <= top or found.change is None:
        assert found.change is None
        assert found.reason
        assert before <= top or not lifting or not reranker.rerank(history, ITEMS).personalized
    else:
        assert not found.reason
        assert lifting[found.change.item_id] == found.change.rank
        newest = {one.item_id: one.timestamp for one in history[::-1]}
        assert found.change.item_id == min(lifting, key=lambda own: newest[own])


# East wins for a user who goes east; north would win without the first item of the history.
COMPASS = {"east": [[1.0, 0.0]], "north": [[0.0, 1.0]], "west": [[-1.0, 0.0]]}


def test_it_tells_the_rank_the_threshold_and_what_to_leave_out() -> None:
    reranker = reranker_of(index_of(COMPASS))
    found = reranker.why_not(past("1 0", "1 0.1", "0 1"), "north", [*COMPASS], top=1)
    assert (found.item.rank, found.item.item_id) == (2, "north")
    assert found.threshold is not None
    assert found.threshold.item_id == "east"
    assert found.item.persona is not None
    assert found.threshold.persona is not None
    assert found.item.score is not None
    assert found.threshold.score is not None
    assert found.differences.personas == pytest.approx(found.item.score - found.threshold.score)
    assert found.change is None
    assert found.reason == "no single change lifts it: 3 were tried"
    assert found.tried == 3
    lifted = reranker.why_not(past("1 0", "0 1"), "north", [*COMPASS], top=1).change
    assert lifted is not None
    assert (lifted.item_id, lifted.adds, lifted.rank) == ("own-0", False, 1)


def test_the_parts_that_kept_it_there() -> None:
    weights = {("own-0", "east"): 4.0, ("own-1", "north"): 1.0}
    reranker = reranker_of(index_of(COMPASS, weights))
    candidates = [("east", 3.0), ("west", 2.0), ("north", 1.0)]
    found = reranker.why_not(past("1 0", "0 1"), "north", candidates, top=1, rerank=STANDARD)
    assert found.threshold is not None
    own, other = found.item.parts, found.threshold.parts
    for part in ("personas", "collaborative", "generator"):
        difference = getattr(own, part) - getattr(other, part)
        assert getattr(found.differences, part) == pytest.approx(difference)
    assert [one.item_id for one in found.item.chosen_with] == ["own-1"]


def test_an_older_interaction_takes_the_place_of_the_one_that_is_left_out() -> None:
    reranker = reranker_of(index_of(COMPASS), length=2)
    found = reranker.why_not(past("1 0", "1 0", "-1 0", "0 1"), "north", [*COMPASS], top=1)
    assert found.change is None, "of the two that count, one east stays, and west comes in"
    found = reranker.why_not(past("1 0", "1 0", "0 1"), "north", [*COMPASS], top=1)
    assert found.change is None, "east is still the newer of both"
    found = reranker.why_not(past("0.5 1", "1 0", "0 1"), "north", [*COMPASS], top=1)
    assert found.change is not None
    assert found.change.item_id == "own-1"


def test_a_known_item_is_added_where_leaving_out_does_not_suffice() -> None:
    index = index_of(COMPASS)
    index.replace_item("pole", [persona("pole_P0")], [[0.0, 1.0]], {"summary": "0 1"})
    reranker = reranker_of(index)
    history = past("1 0", "1 0")
    assert reranker.why_not(history, "north", [*COMPASS], top=1).change is None
    found = reranker.why_not(history, "north", [*COMPASS], top=1, additions=3)
    assert found.change is None, "the two others outweigh it"
    found = reranker.why_not(past("1 0"), "north", ["east", "north"], top=1, additions=3)
    assert found.change is not None
    assert (found.change.item_id, found.change.adds, found.change.rank) == ("pole", True, 1)
    assert found.tried == 1 + 3
    shared = index_of(COMPASS, {("north", "west"): 1.0})
    tried = reranker_of(shared).why_not(
        past("1 0"), "north", ["east", "north"], top=1, additions=1, rerank=STANDARD
    )
    assert tried.change is None, "west is the one that is chosen together with north"
    assert tried.tried == 1 + 1


def test_users_without_a_history() -> None:
    reranker = reranker_of(index_of(COMPASS))
    found = reranker.why_not(None, "north", [*COMPASS], top=1)
    assert "nothing is known of the user" in found.reason
    found = reranker.why_not([1.0, 0.0], "north", [*COMPASS], top=1)
    assert "plain vector" in found.reason
    assert found.tried == 0
    rows = np.array([[1, 0], [0, 1]], np.float32)
    made = user_vector(past("", ""), rows, 0.85)
    given = reranker.why_not(made, "north", [*COMPASS], top=1)
    assert given.change is not None
    assert given.change.item_id == "own-0"
    known = reranker.why_not(KnownUser(made), "north", [*COMPASS], top=1)
    assert known.change == given.change


def test_items_that_cannot_be_lifted() -> None:
    reranker = reranker_of(index_of(COMPASS))
    with pytest.raises(InputError, match="'south' is not among the 3 candidates"):
        reranker.why_not(past("1 0"), "south", [*COMPASS])
    with pytest.raises(InputError, match="top must be at least 1"):
        reranker.why_not(past("1 0"), "east", [*COMPASS], 0)
    assert "number 1 already" in reranker.why_not(past("1 0"), "east", [*COMPASS]).reason
    bare = reranker.why_not(past("1 0", "0 1"), "unknown", [*COMPASS, "unknown"], top=2)
    assert bare.item.rank == 4
    assert bare.item.persona is None
    assert bare.change is None


def test_the_whole_catalogue() -> None:
    reranker = reranker_of(index_of({**COMPASS, "own-1": [[0.6, 0.8]]}))
    history = past("1 0", "0 1")
    found = reranker.why_not(history, "north", top=1)
    assert found.item.generator_rank == 0
    assert found.change is not None
    assert found.change.item_id == "own-0"
    with pytest.raises(InputError, match="has item 'own-1' already"):
        reranker.why_not(history, "own-1")
    with pytest.raises(InputError, match="the index has no item 'nowhere'"):
        reranker.why_not(history, "nowhere")


def test_the_history_of_a_user_is_encoded_once() -> None:
    encoder = Planned()
    asked: list[str] = []
    encode = encoder.encode_queries

    def counted(texts: Sequence[str]) -> Any:
        asked.extend(texts)
        return encode(texts)

    encoder.encode_queries = counted  # type: ignore[method-assign]
    index = index_of(COMPASS)
    history = past("1 0", "1 0.1", "0 1", "0 1", "0.5 1")
    settings = HistorySettings(length=2)
    PersonaReranker(index, encoder, history=settings).why_not(history, "north", [*COMPASS], 1)
    assert len(asked) == 3, "those that count, and the next one"
