"""Wild columns of B for an index, and their sums by brute force."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st

from p4r_qdrant import PersonaIndex
from p4r_qdrant.index.columns import CollaborativePart, Column
from tests.support.oracle import ITEM_IDS

VALUES = st.sampled_from([-2.0, -0.5, -0.125, 0.25, 0.25, 0.5, 1.5])
WEIGHTS = st.sampled_from([1.0, 0.5, 0.25, 0.0])


def part(columns: Collection[Column], **settings: object) -> CollaborativePart:
    last = max((one.number for one in columns if one.number is not None), default=-1)
    return CollaborativePart(0, "2026-01-01", 200, len(columns), last + 1, "hash", settings)


def column(item_id: str, number: int | None, entries: Mapping[int, float]) -> Column:
    places = sorted(entries)
    return Column(
        item_id,
        number,
        np.array(places, dtype=np.uint32),
        np.array([entries[one] for one in places], dtype=np.float32),
    )


@dataclass
class WildB:
    """B as a dictionary: item id i -> item id j -> B[j, i]; and the items' numbers."""

    entries: dict[str, dict[str, float]]
    numbers: dict[str, int]

    def columns(self) -> list[Column]:
        return [
            column(item_id, self.numbers[item_id], {self.numbers[j]: b for j, b in own.items()})
            for item_id, own in self.entries.items()
        ]

    def score(self, history: Mapping[str, float], item_id: str) -> float:
        own = self.entries.get(item_id, {})
        return sum(weight * own.get(j, 0.0) for j, weight in history.items())


@st.composite
def wild_b(draw: st.DrawFn) -> WildB:
    """Up to ten items with gaps between their numbers; some have no entries."""
    ids = draw(st.lists(ITEM_IDS, unique=True, max_size=10))
    numbers = draw(st.lists(st.integers(0, 40), unique=True, min_size=len(ids), max_size=len(ids)))
    entries = {one: draw(st.dictionaries(st.sampled_from(ids), VALUES, max_size=6)) for one in ids}
    for one, own in entries.items():
        own.pop(one, None)
    return WildB(entries, dict(zip(ids, numbers, strict=True)))


@st.composite
def histories(draw: st.DrawFn, b: WildB) -> dict[str, float]:
    some = st.one_of(st.sampled_from([*b.entries, "missing"]), ITEM_IDS)
    return draw(st.dictionaries(some, WEIGHTS, max_size=6))


def check_large(index: PersonaIndex, items: int) -> None:
    """Write random columns, some values below 0, and compare all answers with a matrix product."""
    random, entries = np.random.default_rng(3), 30
    columns = [
        Column(
            f"item-{number}",
            number,
            np.sort(random.choice(items, entries, replace=False)).astype(np.uint32),
            random.standard_normal(entries).astype(np.float32),
        )
        for number in range(items)
    ]
    index.write_collaborative(part(columns), columns)
    matrix = np.zeros((items, items))
    for one in columns:
        matrix[one.places, one.number] = one.values
    seen = [*range(0, items, max(1, items // 40))]
    weights = np.zeros(items)
    weights[seen] = 0.9 ** np.arange(len(seen))
    history = {f"item-{number}": weights[number] for number in seen}
    truth = weights @ matrix
    asked = [f"item-{number}" for number in range(2 * items)]
    scores, none = index.collaborative_scores([history, {"nobody": 1.0}], [asked, asked])
    assert none == {}
    found = [scores.get(f"item-{number}", 0.0) for number in range(items)]
    assert found == pytest.approx(truth, abs=1e-4)
    best = [one for one in np.argsort(-truth) if not weights[one] and truth[one] > 0][:30]
    nearest = index.collaborative_nearest(history, 30, [*history])
    assert [one for one, _ in nearest] == [f"item-{number}" for number in best]
    assert len(index.collaborative_nearest(history, 5 * items)) == (truth > 1e-6).sum()
