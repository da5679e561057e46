"""The embedded engine: points in a Qdrant Edge shard, and a matrix for scoring them.

Qdrant Edge holds the GIL in every call. Therefore long work is split into short calls, and
`optimize` runs in another process on a copy. Only one process can open a folder at a time.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import (
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    StorageFullError,
)
from p4r_qdrant.index import filters
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import batches, whole_items
from p4r_qdrant.index.columns import ColumnSets
from p4r_qdrant.index.edge import queries, refilling
from p4r_qdrant.index.edge.columns import EdgeColumnSets
from p4r_qdrant.index.edge.folder import (
    SPACE_TO_GROW,
    SPACE_TO_TIDY,
    EdgeFolder,
    Manifest,
)
from p4r_qdrant.index.edge.matrix import ScoreMatrix
from p4r_qdrant.index.edge.shards import check_settings, rebuild_shard
from p4r_qdrant.index.engine import (
    BestPoints,
    IndexStats,
    ItemPage,
    NearPoint,
    StoredPoints,
)
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point, in_order, point_id
from p4r_qdrant.index.query import scores_of
from p4r_qdrant.settings import IndexSettings

POINTS_A_CALL = 128
"""The points that one call of Qdrant Edge reads or writes; it blocks all threads for about 3 ms."""
POINTS_A_FLUSH = 20_000


class EdgeEngine:
    """An engine in one folder on the disk; see `Engine`.

    Written points survive `kill -9` once the call returns. Raises IndexLockedError if another
    process has the folder open, and IndexMismatchError if it holds no index of this project.
    """

    def __init__(
        self, settings: IndexSettings, path: Path, made_with: IndexMetadata | None = None
    ) -> None:
        """made_with: metadata of a new index, which is made if the folder holds none."""
        check_settings(settings)
        self._settings = settings
        self.max_personas = settings.max_personas
        self.waits = False
        self.tenant = settings.tenant
        self._folder = EdgeFolder(path)
        self._columns = EdgeColumnSets(self._folder, self._translated)
        self.location = self._folder.location
        self._write_lock = threading.RLock()
        self._changes = 0
        self._matrix: ScoreMatrix | None = None
        self._touched: set[str] | None = None
        """Items written while `optimize` runs; None if it does not run."""
        self._unflushed = 0
        self._written = False
        """Whether files may have changed since their checksums were compared."""
        self._closed = False
        self._wanted = settings.field_types
        if self._folder.read_manifest() is None and made_with is None:
            raise self._nothing_there()  # and makes no folder
        self._folder.lock()
        try:
            manifest = self._opened(settings, made_with)
        except BaseException:
            self._folder.unlock()
            raise
        self.metadata = manifest.metadata
        self.datatype = manifest.datatype
        self._declared = manifest.fields

    def _opened(self, settings: IndexSettings, made_with: IndexMetadata | None) -> Manifest:
        """Load the shard of the locked folder, or make one."""
        manifest = self._folder.read_manifest()
        if manifest is None:
            if made_with is None:
                raise self._nothing_there()
            manifest = self._folder.create(made_with, settings)
        self._shard_name = manifest.shard
        with self._translated():
            self._shard = self._folder.load_shard(self._shard_name)
        self._folder.remove_other_shards(self._shard_name)
        return manifest

    def _nothing_there(self) -> IndexMismatchError:
        return IndexMismatchError(
            f"there is no persona index in {self.location}; make it with `p4r index`"
        )

    def point_id(self, item_id: str, position: int) -> str:
        """See `Engine`. A tenant's folder holds nothing of others."""
        return point_id(item_id, position)

    @property
    def columns(self) -> ColumnSets:
        """See `Engine`."""
        self._check_open()
        return self._columns

    @property
    def fields(self) -> Mapping[str, str]:
        """See `Engine`."""
        always = dict.fromkeys((names.ITEM_ID, *names.KEYWORDS), "keyword")
        return {**always, **self._declared}

    def read_fields(self) -> Mapping[str, str]:
        """See `Engine`. No other process can have the folder open."""
        return self.fields

    def complete(self) -> None:
        """See `Engine`. Fields are only declared here, in the manifest."""
        declared = {**self._declared, **self._wanted}
        if declared != self._declared:
            self._declared = declared
            self.write_metadata(self.metadata)

    def stats(self) -> IndexStats:
        """See `Engine`."""
        with self._translated():
            first = edge.Filter(must=[queries.equals(names.POSITION, 0)])
            items = self._shard.count(edge.CountRequest(exact=True, filter=first))
            personas = self._shard.count(edge.CountRequest(exact=True))
            info = self._shard.info()
        details = {
            "filters on": filters.described(self.fields),
            "segments": str(info.segments_count),
            "vectors": self.datatype,
            "size": f"{self._folder.size() / 1e6:,.1f} MB",
        }
        return IndexStats("embedded", self.location, personas, items, self.metadata, details)

    def optimize(self) -> None:
        """Compact the shard while other threads read and write.

        Another process makes a new shard from the points of a copy, so it holds nothing of deleted
        points. Items written meanwhile are also written to the new shard. Then it replaces the old
        shard in one step.
        """
        with self._translated():
            with self._write_lock:
                if self._touched is not None:
                    raise InputError(f"{self.location} is being optimized already")
                copy, fresh = self._folder.next_shards(2)
                # A copy, the new shard, and what it takes while it is optimized.
                thrice = 3 * self._folder.shard_size(self._shard_name)
                self._folder.check_space(SPACE_TO_GROW + thrice)
                self._touched = set()
            try:
                with self._write_lock:
                    self._shard.flush()
                    shutil.copytree(self._folder.path / self._shard_name, copy)
                settings = self._settings.model_copy(update={"datatype": self.datatype})
                rebuild_shard(copy, fresh, self.metadata.dimension, settings)
                self._switch_to(fresh)
            finally:
                with self._write_lock:
                    self._touched = None
                    shutil.rmtree(copy, ignore_errors=True)
                    if self._shard_name != fresh.name:
                        shutil.rmtree(fresh, ignore_errors=True)

    def purge(self) -> list[str]:
        """See `Engine`."""
        self.optimize()
        return []

    def _switch_to(self, fresh: Path) -> None:
        optimized = edge.EdgeShard.load(str(fresh))
        with self._write_lock:
            if self._closed:
                optimized.close()
                return
            for item_ids in batches(sorted(self._touched or ()), POINTS_A_CALL):
                optimized.update(
                    edge.UpdateOperation.delete_points_by_filter(queries.of_items(item_ids))
                )
                for record in self._scroll(queries.of_items(item_ids), None, with_vectors=True):
                    point = edge.Point(record.id, record.vector, record.payload)
                    optimized.update(edge.UpdateOperation.upsert_points([point]))
            optimized.flush()
            self._written = True
            self._shard_name = fresh.name
            self.write_metadata(self.metadata)
            old, self._shard = self._shard, optimized
            self._matrix = self._score_matrix().compacted()
        # A reader may be about to use the old shard. Closed before its last call ends, the old
        # shard would write its files again.
        deadline = time.monotonic() + 10
        while sys.getrefcount(old) > 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        old.close()
        self._folder.remove_other_shards(self._shard_name)

    def close(self) -> None:
        """Write everything to the disk and release the folder. Closing twice is fine."""
        with self._write_lock:
            if self._closed:
                return
            with self._translated():
                self._closed = True
                try:
                    try:
                        self._shard.flush()
                        if self._matrix is not None:
                            self._matrix.save()
                    finally:
                        self._shard.close()
                    with suppress(OSError):  # without checksums nothing is compared
                        self._folder.write_sums(self._shard_name, all_anew=self._written)
                finally:
                    self._folder.unlock()

    # -- reading ------------------------------------------------------------------------------

    def best_points(
        self,
        vectors: Floats,
        candidates: list[list[str]],
        conditions: list[Condition],
        top: int | None = None,
    ) -> list[BestPoints]:
        """See `Engine`. Without a filter the matrix scores, else the shard; both give all."""
        del top
        matrix = None if conditions else self._matrix_with_room()
        if matrix is None:
            with self._translated():
                return [
                    queries.best_points(
                        self._shard, vector, item_ids, conditions, self.max_personas
                    )
                    for vector, item_ids in zip(vectors, candidates, strict=True)
                ]
        return [
            {
                item_id: (score, point_id(item_id, position))
                for item_id, (score, position) in matrix.best(vector, item_ids).items()
            }
            for vector, item_ids in zip(vectors, candidates, strict=True)
        ]

    def best_scores(self, vectors: Floats, item_ids: list[str]) -> Floats:
        """See `Engine`."""
        matrix = self._matrix_with_room()
        if matrix is None:
            return scores_of(self.best_points(vectors, [item_ids] * len(vectors), []), item_ids)
        return matrix.best_scores(vectors, item_ids)

    def _matrix_with_room(self) -> ScoreMatrix | None:
        """The matrix; None if there is no room for it after a crash: the shard is searched."""
        with suppress(StorageFullError):
            return self._score_matrix()
        return None

    def nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[NearPoint]:
        """See `Engine`."""
        with self._translated():
            return queries.nearest_points(self._shard, vector, limit, conditions)

    def state(self) -> int | None:
        """See `Engine`. No other process can write."""
        changes = self._changes
        return None if changes % 2 else changes

    def points(self, point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        """See `Engine`."""
        found: StoredPoints = {}
        for some in batches(point_ids, POINTS_A_CALL):
            with self._translated():
                records = self._shard.retrieve([*some], True, with_vectors)
            # They come in the requested order; ids are only read back if some are missing.
            names_found = (
                some if len(records) == len(some) else [str(record.id) for record in records]
            )
            for name, record in zip(names_found, records, strict=True):
                vector = np.array(record.vector, dtype=np.float32) if with_vectors else None
                found[name] = (record.payload or {}, vector)
        return found

    def payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """See `Engine`."""
        place = {item_id: number for number, item_id in enumerate(item_ids)}
        found = (
            [one.payload for one in self._scroll(queries.of_items(item_ids), fields)]
            if place
            else []
        )
        return sorted(found, key=lambda one: (place[one[names.ITEM_ID]], one[names.POSITION]))

    def points_of(self, item_ids: Sequence[str]) -> list[Point]:
        """See `Engine`."""
        found = self._scroll(queries.of_items(item_ids), None, with_vectors=True)
        return in_order(
            item_ids,
            (
                Point(str(one.id), np.array(one.vector, dtype=np.float32), one.payload)
                for one in found
            ),
        )

    def item_ids(self) -> Iterator[str]:
        """See `Engine`."""
        first = edge.Filter(must=[queries.equals(names.POSITION, 0)])
        for record in self._scroll(first, [names.ITEM_ID]):
            yield record.payload[names.ITEM_ID]

    def item_page(
        self, conditions: list[Condition], words: str, limit: int, start: str | None
    ) -> ItemPage:
        """See `Engine`."""
        with self._translated():
            return queries.item_page(self._shard, conditions, words, limit, start)

    def written(self) -> Iterator[tuple[str, int]]:
        """See `Engine`."""
        first = edge.Filter(must=[queries.equals(names.POSITION, 0)])
        for record in self._scroll(first, [names.ITEM_ID, names.GENERATION]):
            yield record.payload[names.ITEM_ID], record.payload[names.GENERATION]

    def unsettled(self) -> list[str]:
        """See `Engine`."""
        marked = edge.Filter(must=[queries.equals(names.UNSETTLED, 1)])
        found = self._scroll(marked, [names.ITEM_ID])
        return sorted({record.payload[names.ITEM_ID] for record in found})

    def _scroll(
        self, wanted: edge.Filter, fields: Sequence[str] | None, *, with_vectors: bool = False
    ) -> Iterator[Any]:
        offset = None
        while True:
            with self._translated():
                page, offset = self._shard.scroll(
                    edge.ScrollRequest(
                        offset=offset,
                        limit=POINTS_A_CALL,
                        filter=wanted,
                        with_payload=True if fields is None else list(fields),
                        with_vector=with_vectors,
                    )
                )
            yield from page
            if offset is None:
                return

    # -- writing ------------------------------------------------------------------------------

    def replacing(self) -> AbstractContextManager[object]:
        """One lock: the writers of this process run one after another."""
        return self._write_lock

    def discard_derived(self) -> None:
        """See `Engine`. The matrix is rebuilt when it is needed."""
        self._matrix = None

    def write_metadata(self, metadata: IndexMetadata) -> None:
        """See `Engine`."""
        with self._write_lock, self._translated():
            self._written = True
            self._folder.write_manifest(
                Manifest(metadata, self._shard_name, self.datatype, self._declared)
            )
            self.metadata = metadata

    def read_metadata(self) -> None:
        """See `Engine`. No other process can write it."""

    def upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        """See `Engine`."""
        condition = None if older_than is None else edge.Filter(must=[queries.older(older_than)])
        with self._write_lock, self._translated():
            item_ids = {point.payload[names.ITEM_ID] for point in points}
            matrix = self._begin_write(item_ids, SPACE_TO_GROW)
            matrix.reserve(len(points))
            for some in whole_items(points, POINTS_A_CALL):
                self._folder.check_space(SPACE_TO_GROW)
                written = [edge.Point(one.id, one.vector.tolist(), one.payload) for one in some]
                with self._together():
                    upsert = edge.UpdateOperation.upsert_points(written, condition=condition)
                    self._shard.update(upsert)
                    for item_id, own in itertools.groupby(
                        some, lambda one: one.payload[names.ITEM_ID]
                    ):
                        matrix.put(item_id, np.stack([point.vector for point in own]))
            self._unflushed += len(points)
            if self._unflushed >= POINTS_A_FLUSH:
                self._shard.flush()
                self._unflushed = 0

    def delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        """See `Engine`."""
        older = [] if older_than is None else [queries.older(older_than)]
        with self._write_lock, self._translated():
            matrix = self._begin_write(set(item_ids))
            doomed = edge.Filter(must=[queries.any_item(item_ids), *older])
            with self._together():
                self._shard.update(edge.UpdateOperation.delete_points_by_filter(doomed))
                if older_than is None:
                    matrix.drop(item_ids)

    def delete_unchanged(self, written: Mapping[str, int]) -> None:
        """See `Engine`."""
        for item_id, generation in written.items():
            self.delete([item_id], older_than=generation + 1)

    def clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        """See `Engine`."""
        with self._write_lock, self._translated():
            self._begin_write(set(item_ids))
            own = [queries.any_item(item_ids), queries.equals(names.GENERATION, generation)]
            marked = edge.Filter(must=[*own, queries.equals(names.UNSETTLED, 1)])
            keys = [names.UNSETTLED]
            self._shard.update(edge.UpdateOperation.delete_payload_by_filter(marked, keys))

    def _begin_write(self, item_ids: set[str], space: int = SPACE_TO_TIDY) -> ScoreMatrix:
        """Prepare a write: drop the saved matrix, and record the items for a running optimizer."""
        self._folder.check_space(space)
        self._written = True
        matrix = self._score_matrix()
        if matrix.is_mostly_dead:
            matrix = self._matrix = matrix.compacted()
        matrix.begin_write()
        if self._touched is not None:
            self._touched |= item_ids
        return matrix

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Change shard and matrix together; if that fails, the matrix is rebuilt."""
        self._changes += 1  # odd: under way
        try:
            yield
        except BaseException:
            self._matrix = None
            raise
        finally:
            self._changes += 1

    # -- the matrix ---------------------------------------------------------------------------

    def _score_matrix(self) -> ScoreMatrix:
        """The matrix of vectors: the saved one, or after a crash one made from the shard."""
        self._check_open()
        if self._matrix is None:
            with self._write_lock, self._translated():
                if self._matrix is None:
                    matrix = ScoreMatrix(self._folder.path, self.metadata.dimension, self.datatype)
                    if not matrix.load():
                        self._fill(matrix)
                    self._matrix = matrix
        return self._matrix

    def _fill(self, matrix: ScoreMatrix) -> None:
        total = self._shard.count(edge.CountRequest(exact=True))
        items = batches(self.item_ids(), POINTS_A_CALL // self.max_personas or 1)
        records = (
            self._scroll(queries.of_items(some), refilling.FIELDS, with_vectors=True)
            for some in items
        )
        refilling.refill(matrix, total, records, self._folder.damaged)

    # -- errors -------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError(f"{self.location} is closed; open the index again")

    def _translated(self) -> AbstractContextManager[None]:
        self._check_open()
        return self._folder.translated()
