"""The collaborative part of an index: the columns of B, as sets that an engine stores.

B[j, i] says how much item j in a history speaks for item i. A set holds a column of B for each
item of the catalogue, as a sparse vector whose dimensions are the numbers of the items j. A set is
written whole, under a number of its own; then the metadata of the version names it in one step.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats

Numbers = npt.NDArray[np.uint32]
"""Numbers of items: the dimensions of a column."""

Scored = dict[str, float]
"""Item id -> c(u, i). Items that nothing in the history speaks for are missing: they score 0."""


@dataclass(frozen=True, slots=True)
class CollaborativePart:
    """The record of the columns that belong to a version of the index.

    set: the number of the set of columns. k: most entries of a column. items: items with a column.
    next_number: the lowest item number that was never given. inputs: a hash of what B was fitted
    on. settings: those of the fit.
    """

    set: int
    fitted_at: str
    k: int
    items: int
    next_number: int
    inputs: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """The form in the metadata of a version."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> CollaborativePart | None:
        """Read the stored form. None if there is none, or one that this release does not know."""
        return _parsed(text) if text else None


@lru_cache(maxsize=16)
def _parsed(text: str) -> CollaborativePart | None:
    try:
        stored = json.loads(text)
        if not isinstance(stored, dict):
            return None
        return CollaborativePart(
            **{one.name: stored[one.name] for one in fields_of(CollaborativePart)}
        )
    except (ValueError, KeyError):
        return None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of B.

    number: of the item; None for an item that no history can hold yet. places: (n,) uint32,
    ascending, the numbers of the items that speak for it. values: (n,) float32, not zero. An item
    without entries is never recommended, but histories may hold it.
    """

    item_id: str
    number: int | None
    places: Numbers
    values: Floats

    @classmethod
    def empty(cls, item_id: str, number: int) -> Column:
        """The column of an item that only histories hold."""
        return cls(item_id, number, *NO_ENTRIES)


Entries = tuple[Numbers, Floats]
"""Places and values of a column."""

NO_ENTRIES: Entries = np.empty(0, np.uint32), np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a history: places (n,) uint32, ascending numbers; values (n,) float32."""

    places: Numbers
    values: Floats

    @classmethod
    def of(cls, history: Mapping[str, float], numbers: Mapping[str, int]) -> Weights:
        """The weights of the items that have a number. Zeros are left out."""
        own = sorted((numbers[one], w) for one, w in history.items() if one in numbers and w)
        places = np.array([place for place, _ in own], dtype=np.uint32)
        return cls(places, np.array([weight for _, weight in own], dtype=np.float32))

    def products(self, columns: Sequence[Entries]) -> npt.NDArray[np.float64]:
        """Each weight times the entry of its item in each column: (n, len(columns))."""
        found = np.zeros((len(self.places), len(columns)))
        if not found.size:
            return found
        places = np.concatenate([own for own, _ in columns])
        rows = np.searchsorted(self.places, places)
        hits = np.flatnonzero(self.places.take(rows, mode="clip") == places)
        rows = rows[hits]
        owners = np.repeat(np.arange(len(columns)), [len(own) for own, _ in columns])
        values = np.concatenate([own for _, own in columns])[hits]
        found[rows, owners[hits]] = self.values[rows] * values
        return found


class ColumnSet(Protocol):
    """One set of columns. Thread-safe. Calls raise IndexMismatchError if the set was deleted."""

    def numbers(self, item_ids: Collection[str]) -> dict[str, int]:
        """Item id -> number of the items that have one."""

    def items(self) -> Iterator[tuple[str, int | None]]:
        """(item id, number) of all items, streamed, in no particular order."""

    def columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        """The columns of the items that have entries."""

    def products(self, user: Weights, item_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """What each item of a history adds to each item's score: (len(user.places), n), see
        `Weights.products`.

        A column that this reader knows may be used as it was, though another process may have
        removed or replaced it: good for reasons.
        """

    def scores(self, users: Sequence[Weights], candidates: Sequence[Sequence[str]]) -> list[Scored]:
        """The sum over a history for each candidate of each user; sums of 0 may be missing."""

    def nearest(self, user: Weights, limit: int) -> list[tuple[str, float]]:
        """The items of the whole catalogue with the largest sums, best first, if above 0."""

    def put(self, columns: Sequence[Column]) -> None:
        """Add columns of new items durably."""

    def remove(self, item_ids: Sequence[str]) -> None:
        """Delete the columns of items durably; their numbers stay."""


class ColumnSets(Protocol):
    """The sets of one version, as an engine stores them."""

    def open(self, number: int) -> ColumnSet:
        """A set by its number. Raises IndexMismatchError if there is none."""

    def write(self, number: int, columns: Iterable[Column]) -> None:
        """Write a whole set durably, in place of what a killed process left under its number."""

    def drop(self, kept: Collection[int] = ()) -> None:
        """Delete all sets but these."""
