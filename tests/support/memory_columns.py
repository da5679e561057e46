"""Columns of the collaborative part in dictionaries: the contract without a storage."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.columns import NO_ENTRIES, Column, Scored, Weights


class MemoryColumnSets:
    """See `ColumnSets`. `step` is called before each write."""

    def __init__(self, step: Callable[[str], None]) -> None:
        self.sets: dict[int, MemoryColumns] = {}
        self._step = step

    def open(self, number: int) -> "MemoryColumns":
        if number not in self.sets:
            raise IndexMismatchError(f"there is no set {number}")
        return self.sets[number]

    def write(self, number: int, columns: Iterable[Column]) -> None:
        self.sets[number] = MemoryColumns()
        for one in columns:
            self._step("column")
            self.sets[number].held[one.item_id] = one

    def drop(self, kept: Collection[int] = ()) -> None:
        self._step("drop columns")
        self.sets = {number: one for number, one in self.sets.items() if number in kept}


class MemoryColumns:
    """See `ColumnSet`."""

    def __init__(self) -> None:
        self.held: dict[str, Column] = {}

    def numbers(self, item_ids: Collection[str]) -> dict[str, int]:
        return {
            one: number for one, number in self.items() if one in item_ids and number is not None
        }

    def items(self) -> Iterator[tuple[str, int | None]]:
        return iter([(one.item_id, one.number) for one in self.held.values()])

    def products(self, user: Weights, item_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        held = self.columns(item_ids)
        found = (held.get(one) for one in item_ids)
        return user.products([(one.places, one.values) if one else NO_ENTRIES for one in found])

    def columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        return {
            one: self.held[one]
            for one in item_ids
            if one in self.held and len(self.held[one].places)
        }

    def scores(self, users: Sequence[Weights], candidates: Sequence[Sequence[str]]) -> list[Scored]:
        return [
            {one: _sum(column, user) for one, column in self.columns(asked).items()}
            for user, asked in zip(users, candidates, strict=True)
        ]

    def nearest(self, user: Weights, limit: int) -> list[tuple[str, float]]:
        [scores] = self.scores([user], [[*self.held]])
        found = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
        return [one for one in found if one[1] > 0][:limit]

    def put(self, columns: Sequence[Column]) -> None:
        self.held |= {one.item_id: one for one in columns}

    def remove(self, item_ids: Sequence[str]) -> None:
        nothing = np.zeros(0, np.uint32), np.zeros(0, np.float32)
        for one in self.columns(item_ids).values():
            self.held[one.item_id] = Column(one.item_id, one.number, *nothing)


def _sum(column: Column, user: Weights) -> float:
    weights: Mapping[int, float] = dict(
        zip(user.places.tolist(), user.values.tolist(), strict=True)
    )
    entries = zip(column.places.tolist(), column.values.tolist(), strict=True)
    return float(sum(weights.get(place, 0.0) * value for place, value in entries))
