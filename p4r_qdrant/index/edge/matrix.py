"""The persona vectors as one matrix on disk, for scoring candidates in process.

A search of the embedded engine makes a Python object of each point. One matrix multiplication is an
order of magnitude faster. The matrix is derived from the shard. `rows.json` holds the rows of each
item, and exists only while matrix and shard agree: it is deleted before the first write and written
when the index is closed. If it is missing after a crash, or its checksum does not match, the matrix
is rebuilt from the shard.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.whole_files import write_whole

GATHERED = 98_304
"""Elements of one product; for a larger one, BLAS would start threads and wait for them."""
FIRST_ROWS = 1024

Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Places = npt.NDArray[np.int64]


def directory_sum(directory: Mapping[str, Any], rows: Rows) -> int:
    """The checksum of the content of rows.json and of the used rows (n, dim)."""
    text = json.dumps(directory, sort_keys=True).encode()
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data, zlib.crc32(text))


class ScoreMatrix:
    """A memory-mapped (capacity, dim) matrix and the rows of each item in it.

    The caller's lock allows one writer at a time. Readers need no lock: the new rows of an item are
    written to free places and then assigned in one step, so a reader sees old rows or new rows.
    """

    def __init__(self, folder: Path, dimension: int, datatype: str) -> None:
        self._matrix_path = folder / "rows.bin"
        self._directory_path = folder / "rows.json"
        self._dtype = np.dtype(datatype)
        self._dimension = dimension
        self._places: dict[str, tuple[int, int]] = {}
        self._used = 0
        self._live = 0
        self._clean = False
        self._matrix: Rows = np.zeros((0, dimension), self._dtype)

    def load(self) -> bool:
        """Load the files of `save`. Returns False, without rows, if they are missing or damaged."""
        if not self._loaded():
            # Rows are written from here on that this directory must never be read with.
            self._directory_path.unlink(missing_ok=True)
        return self._clean

    def _loaded(self) -> bool:
        try:
            stored = json.loads(self._directory_path.read_text())
            used = int(stored["used"])
            places = {
                one: (int(start), int(count)) for one, (start, count) in stored["places"].items()
            }
            if [stored["dimension"], stored["dtype"]] != [self._dimension, self._dtype.name]:
                return False
            if any(
                start < 0 or count < 1 or start + count > used for start, count in places.values()
            ):
                return False
            if used and self._matrix_path.stat().st_size < self._bytes(used):
                return False
            self._map(used, keep=True)
            if stored.pop("sum", None) != directory_sum(stored, self._matrix[:used]):
                self._matrix = self._matrix[:0]
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        self._places = places
        self._used = used
        self._live = sum(count for _, count in places.values())
        self._clean = True
        return True

    def begin_write(self) -> None:
        """Delete `rows.json`: until `save`, only the shard is correct on the disk."""
        if self._clean or self._directory_path.exists():
            self._directory_path.unlink(missing_ok=True)
            self._clean = False

    def reserve(self, count: int) -> None:
        """Make room for `count` more rows; raises OSError if the disk is full."""
        if self._used + count > len(self._matrix):
            self._map(max(FIRST_ROWS, 2 * len(self._matrix), self._used + count))

    def put(self, item_id: str, vectors: Rows) -> None:
        """Set the rows of an item, in the order of its slots; vectors: (n, dim)."""
        count = len(vectors)
        self.reserve(count)
        self._matrix[self._used : self._used + count] = vectors
        self._live += count - self._places.get(item_id, (0, 0))[1]
        self._places[item_id] = (self._used, count)
        self._used += count

    def drop(self, item_ids: Iterable[str]) -> None:
        """Forget items."""
        for item_id in item_ids:
            self._live -= self._places.pop(item_id, (0, 0))[1]

    @property
    def is_mostly_dead(self) -> bool:
        """Whether more rows are unused than used."""
        return self._used > 2 * self._live + FIRST_ROWS

    def compacted(self) -> ScoreMatrix:
        """Copy the used rows to a new file; readers of the old file are not disturbed."""
        compact = ScoreMatrix(self._matrix_path.parent, self._dimension, self._dtype.name)
        self.begin_write()
        compact.reserve(self._live)
        for item_id, (start, count) in self._places.items():
            compact.put(item_id, self._matrix[start : start + count])
        return compact

    def save(self) -> None:
        """Write the matrix and its directory, so that the next `load` finds them.

        If more rows are unused than used, nothing is written, and the next opening rebuilds both.
        """
        if self._clean or self.is_mostly_dead:
            return
        if isinstance(self._matrix, np.memmap):
            self._matrix.flush()
        stored = {
            "dimension": self._dimension,
            "dtype": self._dtype.name,
            "used": self._used,
            "places": self._places,
        }
        stored["sum"] = directory_sum(stored, self._matrix[: self._used])
        write_whole(self._directory_path, json.dumps(stored))
        self._clean = True

    def best(self, vector: Floats, item_ids: Sequence[str]) -> dict[str, tuple[float, int]]:
        """(score, slot) of the best row of each item that is there; of equals the lower slot.

        vector: (dim,) float32, normalised.
        """
        known, counts, first, rows = self._rows_of(item_ids)
        if not known:
            return {}
        scores = self._products(rows, vector[None])[0]
        top = np.maximum.reduceat(scores, first)
        total = len(scores)
        at_top = np.where(scores == np.repeat(top, counts), np.arange(total), total)
        slots = np.minimum.reduceat(at_top, first) - first
        return {
            item_ids[one]: (score, slot)
            for one, score, slot in zip(known, top.tolist(), slots.tolist(), strict=True)
        }

    def best_scores(self, vectors: Floats, item_ids: Sequence[str]) -> Floats:
        """The scores of `best` for several vectors, (k, dim): (k, n) float32, NaN without rows."""
        found = np.full((len(vectors), len(item_ids)), np.nan, np.float32)
        known, _, first, rows = self._rows_of(item_ids)
        if known:
            found[:, known] = np.maximum.reduceat(self._products(rows, vectors), first, axis=1)
        return found

    def _rows_of(self, item_ids: Sequence[str]) -> tuple[list[int], Places, Places, Places]:
        """The items that are there, how many rows each has, where they begin, and all rows."""
        places = [self._places.get(one) for one in item_ids]
        known = [number for number, place in enumerate(places) if place is not None]
        starts = np.array([place[0] for place in places if place is not None], np.int64)
        counts = np.array([place[1] for place in places if place is not None], np.int64)
        first = np.cumsum(counts) - counts
        rows = np.repeat(starts - first, counts) + np.arange(counts.sum())
        return known, counts, first, rows

    def _products(self, rows: Places, vectors: Floats) -> Floats:
        """The product of each vector, (k, dim), with each row: (k, n_rows) float32."""
        matrix = self._matrix  # after the places: every row they name is in it
        step = max(1, GATHERED // self._dimension)
        gathered = np.empty((min(step, len(rows)), self._dimension), self._dtype)
        scores = np.empty((len(vectors), len(rows)), np.float32)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            # mode="clip" is what makes take() write straight into `out`; all rows are valid.
            block = np.take(matrix, part, axis=0, out=gathered[: len(part)], mode="clip")
            block = block.astype(np.float32, copy=False)
            for own, vector in zip(scores, vectors, strict=True):
                own[start : start + len(part)] = block @ vector
        return scores

    def _bytes(self, rows: int) -> int:
        return rows * self._dimension * self._dtype.itemsize

    def _map(self, capacity: int, *, keep: bool = False) -> None:
        """Make the file hold `capacity` rows and map it; mappings in use stay valid."""
        if not capacity:
            return
        size = self._bytes(capacity)
        if not keep and not len(self._matrix):
            # No longer needed, perhaps large. A reader may have it open, so it is not truncated.
            self._matrix_path.unlink(missing_ok=True)
        with self._matrix_path.open("ab") as file:
            if file.tell() < size:
                if hasattr(os, "posix_fallocate"):
                    # A hole in the file would be found out by SIGBUS where the disk is full.
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        shape = (capacity, self._dimension)
        self._matrix = np.memmap(self._matrix_path, self._dtype, "r+", shape=shape)
