"""The expected answers of an index, computed with NumPy and without any code of the engines."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from p4r_qdrant import Persona
from p4r_qdrant.arrays import normalised
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import ItemVectors
from p4r_qdrant.records import RankedItem

DIMENSION = 8
Floats = npt.NDArray[np.float64]


def persona(persona_id: str, text: str = "text") -> Persona:
    return Persona(
        persona_id=persona_id,
        name=f"Name of {persona_id}",
        description=f"Description {text}",
        preference_rationale=f"Reason {text}",
    )


@dataclass
class Catalogue:
    """Items as rows of vectors, with their own fields."""

    vectors: dict[str, Floats]
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> list[ItemVectors]:
        return [
            ItemVectors(
                item_id,
                [persona(f"{item_id}_P{number}") for number in range(len(rows))],
                rows,
                self.fields.get(item_id, {}),
            )
            for item_id, rows in self.vectors.items()
        ]


def matches(fields: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's fields satisfy a filter."""
    for name, condition in (wanted or {}).items():
        held = fields.get(name)
        values = held if isinstance(held, list) else [] if held is None else [held]
        if isinstance(condition, Mapping):
            checks = {
                "gt": lambda value, bound: value > bound,
                "gte": lambda value, bound: value >= bound,
                "lt": lambda value, bound: value < bound,
                "lte": lambda value, bound: value <= bound,
            }
            bounds = {key: bound for key, bound in condition.items() if key != "not"}
            numbers = [value for value in values if not isinstance(value, (str, bool))]
            if bounds and not any(
                all(checks[key](value, bound) for key, bound in bounds.items()) for value in numbers
            ):
                return False
            if "not" in condition:
                refused = condition["not"]
                refused = refused if isinstance(refused, list) else [refused]
                if any(_same(value, one) for value in values for one in refused):
                    return False
        else:
            accepted = condition if isinstance(condition, list) else [condition]
            if not any(_same(value, one) for value in values for one in accepted):
                return False
    return True


def _same(held: Any, wanted: Any) -> bool:
    return type(held) is type(wanted) and held == wanted


def brute_force(
    catalogue: Catalogue,
    user: npt.ArrayLike,
    candidates: Sequence[str],
    wanted: Mapping[str, Any] | None = None,
) -> dict[str, list[float]]:
    """The cosine of every persona of each distinct candidate, in float64; [] without any."""
    direction = np.asarray(user, dtype=np.float64)
    direction = direction / np.linalg.norm(direction)
    scores: dict[str, list[float]] = {}
    for item_id in candidates:
        rows = catalogue.vectors.get(item_id)
        if rows is None or not matches(catalogue.fields.get(item_id, {}), wanted):
            scores[item_id] = []
        else:
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            scores[item_id] = [float(row @ direction) for row in unit]
    return scores


def assert_congruent(
    index: PersonaIndex,
    catalogue: Catalogue,
    users: npt.ArrayLike,
    candidates: Sequence[Sequence[str]],
    wanted: Mapping[str, Any] | None = None,
    tolerance: float = 2e-6,
) -> None:
    """Check an engine's answer by brute force: scores, winners, order and completeness."""
    answer = index.best_personas(np.asarray(users), candidates, wanted)
    assert len(answer) == len(candidates)
    for top in (1, 3):
        first = index.best_personas(np.asarray(users), candidates, wanted, top=top)
        assert first == [ranking[:top] for ranking in answer], "not the first of all"
    for user, asked, ranking in zip(np.asarray(users), candidates, answer, strict=True):
        truth = brute_force(catalogue, user, asked, wanted)
        assert sorted(match.item_id for match in ranking) == sorted(truth), "a candidate is lost"
        without = [match.item_id for match in ranking if match.score is None]
        assert without == [item_id for item_id in truth if not truth[item_id]]
        scored = [match for match in ranking if match.score is not None]
        assert [match.item_id for match in ranking] == [
            *(match.item_id for match in scored),
            *without,
        ], "candidates without personas come last, in the caller's order"
        for match in scored:
            assert match.score is not None
            assert abs(match.score - max(truth[match.item_id])) <= tolerance
            assert match.persona is not None
            slot = int(match.persona.persona_id.rpartition("_P")[2])
            assert match.persona.item_id == match.item_id
            assert abs(truth[match.item_id][slot] - match.score) <= tolerance, "not the winner"
        for before, after in pairwise(scored):
            assert before.score is not None
            assert after.score is not None
            assert (-before.score, before.item_id) < (-after.score, after.item_id), "wrong order"
    if len(candidates) and not wanted:
        rows = [normalised(np.asarray([one], np.float32)) for one in np.asarray(users)]
        asked = [*dict.fromkeys(candidates[0])]
        for user, scores in zip(np.asarray(users), index.best_scores(rows, asked), strict=True):
            truth = brute_force(catalogue, user, asked)
            best = [max(truth[one], default=np.nan) for one in asked]
            np.testing.assert_allclose(scores, best, rtol=0, atol=tolerance)


# --- several interests, and a persona prior ----------------------------------------------------


@dataclass
class Wanted:
    """A user's interactions, newest first, and how they are to be compared with personas."""

    embeddings: Floats
    decay: float
    interests: float
    prior: float
    typical: Floats

    def similarities(self, persona: Floats) -> list[float]:
        """One score for each interaction, by the definition: share by share, no vectors mixed."""
        rows = self.embeddings / np.linalg.norm(self.embeddings, axis=1, keepdims=True)
        unit = persona / np.linalg.norm(persona)
        mean = sum(self.decay**place * row for place, row in enumerate(rows))
        of_mean = float(mean @ unit) / float(np.linalg.norm(mean))
        taken_off = self.prior * float(self.typical @ unit)
        return [
            (1 - self.interests) * of_mean + self.interests * float(row @ unit) - taken_off
            for row in rows
        ]


def assert_ranking_is_congruent(
    items: Sequence[RankedItem],
    catalogue: Catalogue,
    user: Wanted,
    expected: Collection[str],
    tolerance: float = 5e-6,
) -> None:
    """Check a reranker's answer by brute force: scores, winning personas, winning interactions.

    `expected`: which items must be there. Interactions are called by their place in the history.
    """
    assert sorted(one.item_id for one in items) == sorted(expected), "an item is lost"
    scores = [one.persona_score for one in items if one.persona_score is not None]
    assert scores == sorted(scores, reverse=True), "wrong order"
    for item in items:
        rows = catalogue.vectors.get(item.item_id)
        if rows is None:
            assert item.persona_score is None
            continue
        truth = [user.similarities(row) for row in rows]
        best = max(max(own) for own in truth)
        assert item.persona_score is not None
        assert item.persona is not None
        assert abs(item.persona_score - best) <= tolerance
        slot = int(item.persona.persona_id.rpartition("_P")[2])
        assert abs(max(truth[slot]) - best) <= tolerance, "not the persona that won"
        if user.interests:
            won = int(item.because[0].item_id)
            assert abs(truth[slot][won] - best) <= tolerance, "not the interaction that won"
        total = sum(one.contribution for one in item.because)
        row = rows[slot] / np.linalg.norm(rows[slot])
        assert abs(total - user.prior * float(user.typical @ row) - best) <= 2 * tolerance


# --- wild catalogues and queries ---------------------------------------------------------------

ITEM_IDS = st.one_of(
    st.sampled_from(["a", "b", "c", "quote'\"\\", "émoji 🎻", "a/b?c#d", "0", "-1", "null"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12),
)
COORDINATES = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0])


@st.composite
def vectors(draw: st.DrawFn) -> list[float]:
    """A vector with few distinct coordinates, so that equal scores happen; never zero."""
    row = draw(st.lists(COORDINATES, min_size=DIMENSION, max_size=DIMENSION))
    return row if any(row) else [1.0, *row[1:]]


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "language": st.sampled_from(["en", "de", "fr"]),
        "stock": st.integers(-2, 5),
        "price": st.sampled_from([0.5, 9.99, 20.0]),
        "sale": st.booleans(),
        "tags": st.lists(st.sampled_from(["crime", "noir", "war"]), max_size=3),
    },
)

FILTERS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "language": st.sampled_from(["en", ["de", "fr"], {"not": "en"}, {"not": ["de", "en"]}]),
            "stock": st.sampled_from([1, [0, 3], {"gt": 0}, {"gte": 1, "lt": 4}, {"not": 2}]),
            "price": st.sampled_from([{"lte": 9.99}, {"gt": 1}, {"gte": 0.5, "lte": 0.5}]),
            "sale": st.sampled_from([True, False, {"not": True}]),
            "tags": st.sampled_from(["crime", ["noir", "war"], {"not": "war"}]),
        },
    ),
)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """Up to twelve items of one to seven personas, some with the very same vectors."""
    item_ids = draw(st.lists(ITEM_IDS, unique=True, max_size=12))
    return Catalogue(
        {
            item_id: np.array(draw(st.lists(vectors(), min_size=1, max_size=7)))
            for item_id in item_ids
        },
        {item_id: draw(FIELDS) for item_id in item_ids},
    )


@st.composite
def queries(
    draw: st.DrawFn, catalogue: Catalogue
) -> tuple[list[list[float]], list[list[str]], dict[str, Any] | None]:
    """Users, their candidates (missing, repeated and alone among them), and a filter."""
    some_id = st.one_of(st.sampled_from([*catalogue.vectors, "missing"]), ITEM_IDS)
    number = draw(st.integers(1, 3))
    return (
        [draw(vectors()) for _ in range(number)],
        [draw(st.lists(some_id, min_size=1, max_size=15)) for _ in range(number)],
        draw(FILTERS),
    )
