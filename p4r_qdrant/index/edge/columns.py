"""The columns of the embedded engine: one folder of memory-mapped files for each set.

columns-N/items.json          the item ids by number; null where there is none
columns-N/by-item.*.npy       B by column: starts, places (numbers j), values
columns-N/by-history.*.npy    B by row, for searches over the whole catalogue
columns-N/sums.json           checksums of these files, which are never changed
columns-N/changes.log         columns added and removed since, a line with a checksum each
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.columns import (
    NO_ENTRIES,
    Column,
    ColumnSet,
    Entries,
    Numbers,
    Scored,
    Weights,
)
from p4r_qdrant.index.edge.folder import COLUMNS, EdgeFolder
from p4r_qdrant.whole_files import sync_folder, whole_file, write_whole

ITEMS, SUMS, CHANGES = "items.json", "sums.json", "changes.log"
BY_ITEM, BY_HISTORY = "by-item", "by-history"
PARTS = ("starts", "places", "values")
FILES = {ITEMS, *(f"{name}.{part}.npy" for name in (BY_ITEM, BY_HISTORY) for part in PARTS)}
TOTAL_OF_AN_ENTRY = 8
"""Items whose sums are set to 0 in the time that one entry takes to be added."""

Indexes = npt.NDArray[np.integer[Any]]
Places = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class EdgeColumnSets:
    """The sets in the folder of one version; see `ColumnSets`."""

    def __init__(
        self, folder: EdgeFolder, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """translated: turns errors of files into the project's, and refuses after the closing."""
        self._folder = folder
        self._translated = translated

    def open(self, number: int) -> ColumnSet:
        """See `ColumnSets`. The checksums are compared."""
        with self._translated():
            return EdgeColumns(self._folder, self._path(number), self._translated)

    def write(self, number: int, columns: Iterable[Column]) -> None:
        """See `ColumnSets`."""
        path = self._path(number)
        with self._translated():
            shutil.rmtree(path, ignore_errors=True)
            given = [*columns]
            entries = sum(len(one.places) for one in given)
            self._folder.check_space(24 * (entries + len(given)) + (1 << 20))
            path.mkdir()
            _write_set(path, given)

    def drop(self, kept: Collection[int] = ()) -> None:
        """See `ColumnSets`."""
        names = {self._path(number).name for number in kept}
        for path in self._folder.path.glob(f"{COLUMNS}*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder.path / f"{COLUMNS}{number}"


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse matrix row by row: starts (n + 1,), places and values of the entries."""

    starts: Places
    places: Numbers
    values: Floats

    def sums(self, rows: Places, dense: Floats) -> Values:
        """The product of some rows with a vector (n,): (len(rows),); 0 for the row -1."""
        found = np.zeros(len(rows))
        counts = self.counts(rows)
        filled = counts > 0
        if filled.any():
            places, values = self.entries(rows[filled])
            products = values * dense.take(places)
            ends = np.cumsum(counts[filled])
            first = ends - counts[filled]
            found[filled] = np.add.reduceat(products, first, dtype=np.float64)
        return found

    def total(self, rows: Indexes, weights: Floats) -> Values:
        """The sum of some rows, each times its weight: (n,)."""
        places, values = self.entries(rows)
        values = values * np.repeat(weights, self.counts(rows))
        found = np.bincount(places, weights=values, minlength=len(self.starts) - 1)
        return found.astype(np.float64, copy=False)

    def counts(self, rows: Indexes) -> Places:
        """The number of entries of some rows; 0 for the row -1, since `starts` ends at the end."""
        found: Places = np.maximum(self.starts[rows + 1] - self.starts[rows], 0)
        return found

    def entries(self, rows: Indexes) -> tuple[Numbers, Floats]:
        """Places and values of one row or more, one after another."""
        # Whole rows are copied: three times as fast as an index of each entry.
        starts, stops = self.starts[rows].tolist(), self.starts[rows + 1].tolist()
        slices = [*map(slice, starts, stops)]
        places = np.concatenate([self.places[own] for own in slices])
        return places, np.concatenate([self.values[own] for own in slices])


class EdgeColumns:
    """One set, memory-mapped; see `ColumnSet`."""

    def __init__(
        self,
        folder: EdgeFolder,
        path: Path,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._path = path
        self._translated = translated
        self._lock = threading.Lock()
        if not (path / SUMS).exists():
            raise IndexMismatchError(
                f"{path} is missing or not complete; publish the artifacts again"
            )
        try:
            sums = json.loads((path / SUMS).read_bytes())
            if sums.keys() != FILES:
                raise ValueError(f"{path.name}/{SUMS} does not name the files of a set")
            for name, noted in sums.items():
                if _sum_of(path / name) != noted:
                    raise ValueError(f"{path.name}/{name} does not match its checksum")
            ids = json.loads((path / ITEMS).read_bytes())
            self._by_item, self._by_history = _mapped(path, BY_ITEM), _mapped(path, BY_HISTORY)
            changes, self._changes_end = _read_changes(path / CHANGES)
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
            raise folder.damaged(str(error)) from None
        self._ids: list[str | None] = ids
        self._numbers = {one: number for number, one in enumerate(ids) if one is not None}
        self._put: dict[str, Column] = {}
        self._removed: set[int] = set()
        for change in changes:
            self._apply(change)

    def numbers(self, item_ids: Collection[str]) -> dict[str, int]:
        """See `ColumnSet`."""
        known = self._numbers
        return {one: known[one] for one in item_ids if one in known}

    def items(self) -> Iterator[tuple[str, int | None]]:
        """See `ColumnSet`."""
        yield from self._numbers.items()
        yield from ((one, None) for one in [*self._put] if one not in self._numbers)

    def columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        """See `ColumnSet`."""
        found = {}
        for item_id in item_ids:
            places, values = self._entries(item_id)
            if len(places):
                number = self._numbers.get(item_id)
                found[item_id] = Column(item_id, number, np.array(places), np.array(values))
        return found

    def products(self, user: Weights, item_ids: Sequence[str]) -> Values:
        """See `ColumnSet`."""
        return user.products([self._entries(one) for one in item_ids])

    def _entries(self, item_id: str) -> Entries:
        """The column of an item, without a copy."""
        if (column := self._put.get(item_id)) is not None:
            return column.places, column.values
        number = self._numbers.get(item_id, -1)
        if number < 0 or number in self._removed:
            return NO_ENTRIES
        own = slice(*self._by_item.starts[number : number + 2].tolist())
        return self._by_item.places[own], self._by_item.values[own]

    def scores(self, users: Sequence[Weights], candidates: Sequence[Sequence[str]]) -> list[Scored]:
        """See `ColumnSet`."""
        return [self._scores(*one) for one in zip(users, candidates, strict=True)]

    def _scores(self, user: Weights, candidates: Sequence[str]) -> Scored:
        numbers = [self._numbers.get(one, -1) for one in candidates]
        if self._removed:
            numbers = [-1 if one in self._removed else one for one in numbers]
        rows = np.array(numbers, dtype=np.int64)
        own, others = self._by_history.counts(user.places), self._by_item.counts(rows)
        if own.sum() + len(self._ids) / TOTAL_OF_AN_ENTRY < others.sum():
            sums = np.where(rows < 0, 0.0, self._by_history.total(user.places, user.values)[rows])
        else:
            sums = self._by_item.sums(rows, self._dense(user))
        scores = dict(zip(candidates, sums.tolist(), strict=True))
        if self._put:
            dense = self._dense(user)
            for item_id in candidates:
                if (column := self._put.get(item_id)) is not None:
                    scores[item_id] = _sum(column, dense)
        return scores

    def _dense(self, user: Weights) -> Floats:
        """The weights of all items: (n,) float32."""
        dense = np.zeros(len(self._ids), np.float32)
        dense[user.places] = user.values
        return dense

    def nearest(self, user: Weights, limit: int) -> list[tuple[str, float]]:
        """See `ColumnSet`."""
        sums = self._by_history.total(user.places, user.values)
        hidden = self._removed | {self._numbers.get(one, -1) for one in [*self._put]}
        sums[[one for one in hidden if one >= 0]] = 0
        above = np.flatnonzero(sums > 0)
        if len(above) > limit:
            above = above[np.argpartition(-sums[above], limit - 1)[:limit]]
        found = [(str(self._ids[one]), float(sums[one])) for one in above]
        if self._put:
            dense = self._dense(user)
            new = ((one.item_id, _sum(one, dense)) for one in [*self._put.values()])
            found += [one for one in new if one[1] > 0]
        return sorted(found, key=lambda one: (-one[1], one[0]))[:limit]

    def put(self, columns: Sequence[Column]) -> None:
        """See `ColumnSet`."""
        self._change(
            [
                {
                    "put": one.item_id,
                    "places": one.places.tolist(),
                    "values": [float(value) for value in one.values],
                }
                for one in columns
            ]
        )

    def remove(self, item_ids: Sequence[str]) -> None:
        """See `ColumnSet`."""
        held = self.columns(item_ids)
        if held:
            self._change([{"removed": [*held]}])

    def _change(self, changes: Sequence[dict[str, Any]]) -> None:
        with self._lock, self._translated():
            self._changes_end = _append(self._path / CHANGES, self._changes_end, changes)
            for change in changes:
                self._apply(change)

    def _apply(self, change: dict[str, Any]) -> None:
        if "put" in change:
            item_id = change["put"]
            self._put[item_id] = Column(
                item_id,
                self._numbers.get(item_id),
                np.array(change["places"], dtype=np.uint32),
                np.array(change["values"], dtype=np.float32),
            )
            return
        for item_id in change["removed"]:
            self._put.pop(item_id, None)
            if (number := self._numbers.get(item_id)) is not None:
                self._removed.add(number)


def _sum(column: Column, dense: Floats) -> float:
    return float(np.dot(column.values.astype(np.float64), dense[column.places]))


def _write_set(path: Path, columns: Sequence[Column]) -> None:
    numbered = [(one.number, one) for one in columns if one.number is not None]
    numbered.sort(key=lambda one: one[0])
    count = 1 + max((number for number, _ in numbered), default=-1)
    counts = np.zeros(count + 1, np.int64)
    ids: list[str | None] = [None] * count
    for number, one in numbered:
        counts[number + 1] = len(one.places)
        ids[number] = one.item_id
    entries = int(counts.sum())
    places, values = np.empty(entries, np.uint32), np.empty(entries, np.float32)
    end = 0
    for _, one in numbered:
        start, end = end, end + len(one.places)
        places[start:end], values[start:end] = one.places, one.values
    sums = {
        ITEMS: _saved(path / ITEMS, json.dumps(ids, ensure_ascii=False).encode()),
        **_saved_sparse(path, BY_ITEM, np.cumsum(counts), places, values),
    }
    owners = np.repeat(np.arange(count, dtype=np.uint32), counts[1:])
    order = np.argsort(places, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=count))]).astype(np.int64)
    sums |= _saved_sparse(path, BY_HISTORY, starts, owners[order], values[order])
    sync_folder(path)
    write_whole(path / SUMS, json.dumps(sums))


def _saved_sparse(
    path: Path, name: str, starts: Places, places: Numbers, values: Floats
) -> dict[str, int]:
    sums = {}
    arrays: list[npt.NDArray[Any]] = [starts, places, values]
    for part, array in zip(PARTS, arrays, strict=True):
        file = path / f"{name}.{part}.npy"
        with whole_file(file) as opened:
            np.save(opened, array)
        sums[file.name] = _sum_of(file)
    return sums


def _saved(path: Path, content: bytes) -> int:
    write_whole(path, content)
    return zlib.crc32(content)


def _sum_of(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def _mapped(path: Path, name: str) -> Sparse:
    arrays = []
    for part in PARTS:
        file = path / f"{name}.{part}.npy"
        # A plain view: each slice of a memmap object costs several times as much.
        arrays.append(np.load(file, mmap_mode="r").view(np.ndarray))
    return Sparse(*arrays)


def _append(path: Path, end: int, changes: Sequence[dict[str, Any]]) -> int:
    """Append lines durably at `end`, over what a kill left there. Returns the new end."""
    is_new = not path.exists()
    with path.open("xb" if is_new else "r+b") as file:
        file.seek(end)
        file.truncate()
        for change in changes:
            line = json.dumps(change, ensure_ascii=False).encode()
            file.write(b"%08x %s\n" % (zlib.crc32(line), line))
        file.flush()
        os.fsync(file.fileno())
        end = file.tell()
    if is_new:
        sync_folder(path.parent)
    return end


def _read_changes(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The changes, and where the next one goes. A line that a kill cut short is left out.

    Raises ValueError for a line that is damaged.
    """
    if not path.exists():
        return [], 0
    changes = []
    content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    for line in lines:
        noted, _, text = line.partition(b" ")
        if int(noted, 16) != zlib.crc32(text):
            raise ValueError(f"a line of {path.parent.name}/{path.name} is damaged")
        changes.append(json.loads(text))
    return changes, len(content) - len(rest)
