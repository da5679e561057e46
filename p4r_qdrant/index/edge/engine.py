"""The persona index in process: Qdrant Edge on disk, the default without a server.

    FOLDER/manifest.json   what made the index, and which shard is the current one
    FOLDER/shard-N/        the Qdrant Edge shard: the record of everything
    FOLDER/rows.*          the vectors as a matrix, derived (`rows.py`), for scoring

Qdrant Edge holds the GIL in every call, so long work is cut into short calls, and `optimize`
happens in another process on a copy. Only one process can open a folder at a time.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    SettingsError,
    StorageFullError,
)
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import batches, whole_items
from p4r_qdrant.index.edge import queries as query
from p4r_qdrant.index.edge.matrix import ScoreRows
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point, point_id
from p4r_qdrant.settings import IndexSettings, Settings
from p4r_qdrant.whole_files import is_unfinished, write_whole

MANIFEST = "manifest.json"
FIRST_SHARD = "shard-1"
"""The shard of a new folder. Without a manifest it is what a killed `_create` left."""
VERSION = "version-"
"""What the folders of further versions begin with (`edge_versions.py`)."""
POINTS_A_CALL = 128
"""Points written or read by one call into Qdrant Edge: some 3 ms during which Python stands."""
POINTS_A_FLUSH = 20_000
SPACE_TO_GROW = 48 << 20
"""Free bytes on disk without which nothing is added. Qdrant Edge writes through sparse memory
maps: where the disk is full that ends in SIGBUS, the death of the process, not in an error."""
SPACE_TO_TIDY = 4 << 20
"""The same for what adds little: deletions and the end of a replacement."""

_log = logging.getLogger(__name__)


class EdgeIndex(PersonaIndex):
    """The index in one folder on disk: see `PersonaIndex` for what it does.

    What is written is durable when the call returns, kill -9 or not. Raises IndexLockedError
    where another process has the folder open, IndexMismatchError where there is no index or not
    one of ours.
    """

    def __init__(
        self, settings: Settings, folder: Path, made_with: IndexMetadata | None = None
    ) -> None:
        super().__init__(settings.index.max_personas)
        _check_settings(settings.index)
        self._settings = settings.index
        self._folder = folder
        self.location = f"the folder {self._folder}"
        self._write_lock = threading.RLock()
        self._rows: ScoreRows | None = None
        self._touched: set[str] | None = None
        self._unflushed = 0
        self._closed = False
        manifest = self._read_manifest()
        if manifest is None:
            if made_with is None:
                raise IndexMismatchError(
                    f"there is no persona index in {self.location}; make it with `p4r index`"
                )
            manifest = self._create(made_with)
        self.metadata = IndexMetadata.from_json(manifest["metadata"], self.location)
        self._shard_name = str(manifest["shard"])
        self.datatype = str(manifest["datatype"])  # as it was made, whatever the settings say now
        with self._translated():
            self._check_space(_holes(self._folder / self._shard_name))
            self._shard = edge.EdgeShard.load(str(self._folder / self._shard_name))
        try:
            self._remove_leftovers()
            self.repair()
        except BaseException:
            self.close()
            raise

    def stats(self) -> IndexStats:
        """Counts and settings, for people."""
        with self._translated():
            first = edge.Filter(must=[query.equals(names.SLOT, 0)])
            items = self._shard.count(edge.CountRequest(exact=True, filter=first))
            personas = self._shard.count(edge.CountRequest(exact=True))
            info = self._shard.info()
        details = {
            "segments": str(info.segments_count),
            "vectors": self.datatype,
            "size": f"{_size(self._folder) / 1e6:,.1f} MB",
        }
        return IndexStats("embedded", self.location, personas, items, self.metadata, details)

    def optimize(self) -> None:
        """Compact the shard without freezing whoever serves from it.

        Another process does it on a copy; what is written meanwhile is written again to the
        copy, which then takes the old shard's place in one step. Readers go on all the while.
        """
        with self._translated():
            with self._write_lock:
                if self._touched is not None:
                    raise InputError(f"{self.location} is being optimized already")
                current = self._folder / self._shard_name
                copy = self._folder / f"shard-{1 + max(map(_number, self._shards()))}"
                self._check_space(SPACE_TO_GROW + 2 * _size(current))  # a copy and its making anew
                self._touched = set()
            try:
                with self._write_lock:
                    self._shard.flush()
                    shutil.copytree(current, copy)
                _optimize_elsewhere(copy)
                self._switch_to(copy)
            finally:
                with self._write_lock:
                    self._touched = None
                    if self._shard_name != copy.name:
                        shutil.rmtree(copy, ignore_errors=True)

    def close(self) -> None:
        """Write everything down and release the folder. Closing twice is fine."""
        with self._write_lock:
            if self._closed:
                return
            with self._translated():
                self._closed = True
                try:
                    self._shard.flush()
                    if self._rows is not None:
                        self._rows.save()  # while the shard is locked: nobody else writes rows
                finally:
                    self._shard.close()

    # -- what the index is made of ------------------------------------------------------------

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self._folder / MANIFEST
        with self._translated():
            if not path.exists():
                found = self._folder.iterdir() if self._folder.exists() else ()
                if not all(_may_precede_manifest(one.name) for one in found):
                    raise IndexMismatchError(
                        f"{self.location} holds something else than a persona index; "
                        "choose another one with P4R_QDRANT__PATH"
                    )
                return None
            text = path.read_bytes()
        try:
            manifest = json.loads(text)
            metadata, shard = manifest["metadata"], manifest["shard"]
            datatype = np.dtype(manifest["datatype"]).name
            if Path(shard).name != shard or not (self._folder / shard).is_dir():
                raise ValueError(f"there is no {shard} beside it")
        except (ValueError, KeyError, TypeError) as error:
            raise IndexMismatchError(f"{path} is broken ({error}); index again elsewhere") from None
        return {"metadata": metadata, "shard": shard, "datatype": datatype}

    def _create(self, made_with: IndexMetadata) -> dict[str, Any]:
        """Make the folder; it counts as an index once its manifest is there."""
        manifest = {
            "metadata": made_with.to_json(),
            "shard": FIRST_SHARD,
            "datatype": self._settings.datatype,
        }
        cold = edge.Memory.Cold if self._settings.on_disk_vectors else edge.Memory.Cached
        datatype = {
            "float32": edge.VectorStorageDatatype.Float32,
            "float16": edge.VectorStorageDatatype.Float16,
        }[self._settings.datatype]
        links = 16 if self._settings.hnsw else 0
        with self._translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_space(SPACE_TO_GROW)
            self._remove_unfinished()
            shard = edge.EdgeShard.create(
                str(self._folder / FIRST_SHARD),
                edge.EdgeConfig(
                    vectors=edge.EdgeVectorParams(
                        size=made_with.dimension,
                        distance=edge.Distance.Cosine,
                        memory=cold,
                        datatype=datatype,
                    ),
                    hnsw_config=edge.HnswIndexConfig(
                        m=links, ef_construct=100, full_scan_threshold=10_000, payload_m=0
                    ),
                    payload_memory=edge.Memory.Cold
                    if self._settings.on_disk_payload
                    else edge.Memory.Cached,
                ),
            )
            for field, kind in (
                (names.ITEM_ID, edge.PayloadSchemaType.Keyword),
                (names.SLOT, edge.PayloadSchemaType.Integer),
                (names.UNSETTLED, edge.PayloadSchemaType.Integer),
            ):
                shard.update(edge.UpdateOperation.create_field_index(field, kind))
            shard.flush()
            shard.close()
            self._write_manifest(manifest)
        return manifest

    def _write_metadata(self) -> None:
        with self._write_lock, self._translated():
            self._write_manifest(
                {
                    "metadata": self.metadata.to_json(),
                    "shard": self._shard_name,
                    "datatype": self.datatype,
                }
            )

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_whole(self._folder / MANIFEST, json.dumps(manifest, indent=1))

    def _remove_unfinished(self) -> None:
        """What is left of a `_create` that was killed; IndexLockedError where one is at work."""
        for path in self._shards():
            try:
                edge.EdgeShard.load(str(path)).close()
            except Exception as error:
                if "WouldBlock" in str(error):
                    raise
            shutil.rmtree(path)

    def _shards(self) -> list[Path]:
        return [path for path in self._folder.glob("shard-*") if path.is_dir()]

    def _remove_leftovers(self) -> None:
        """Shards that a crash left behind: the manifest names the one that counts."""
        for path in self._shards():
            if path.name != self._shard_name:
                shutil.rmtree(path, ignore_errors=True)

    def _switch_to(self, copy: Path) -> None:
        optimized = edge.EdgeShard.load(str(copy))
        with self._write_lock:
            if self._closed:
                optimized.close()
                return
            for item_ids in batches(sorted(self._touched or ()), POINTS_A_CALL):
                optimized.update(
                    edge.UpdateOperation.delete_points_by_filter(query.of_items(item_ids))
                )
                for record in self._scroll(query.of_items(item_ids), None, with_vectors=True):
                    point = edge.Point(record.id, record.vector, record.payload)
                    optimized.update(edge.UpdateOperation.upsert_points([point]))
            optimized.flush()
            self._shard_name = copy.name
            self._write_metadata()
            old, self._shard = self._shard, optimized
        # A reader may be just about to ask the old one; closed later it would write files again.
        deadline = time.monotonic() + 10
        while sys.getrefcount(old) > 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        old.close()
        self._remove_leftovers()

    # -- what the engine gives ----------------------------------------------------------------

    def _best_points(
        self, vectors: Floats, candidates: list[list[str]], conditions: list[Condition]
    ) -> list[dict[str, tuple[float, str]]]:
        rows = None
        if not conditions:
            with suppress(StorageFullError):  # after a crash, no room for rows: search instead
                rows = self._score_rows()
        if rows is None:
            with self._translated():
                return [
                    query.best_points(self._shard, vector, item_ids, conditions, self.max_personas)
                    for vector, item_ids in zip(vectors, candidates, strict=True)
                ]
        return [
            {
                item_id: (score, point_id(item_id, slot))
                for item_id, (score, slot) in rows.best(vector, item_ids).items()
            }
            for vector, item_ids in zip(vectors, candidates, strict=True)
        ]

    def _nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[tuple[float, str, str]]:
        with self._translated():
            return query.nearest_points(self._shard, vector, limit, conditions)

    def _points(
        self, point_ids: Sequence[str], with_vectors: bool
    ) -> dict[str, tuple[dict[str, Any], Floats | None]]:
        found = {}
        for some in batches(point_ids, POINTS_A_CALL):
            with self._translated():
                records = self._shard.retrieve([*some], True, with_vectors)
            # They come in the order asked for; ids are only read back where some are missing.
            names_found = (
                some if len(records) == len(some) else [str(record.id) for record in records]
            )
            for name, record in zip(names_found, records, strict=True):
                vector = np.array(record.vector, dtype=np.float32) if with_vectors else None
                found[name] = (record.payload or {}, vector)
        return found

    def repair(self) -> int:
        """See `PersonaIndex`; the rows of what it settles are made anew."""
        with self._write_lock:
            settled = super().repair()
            if settled:
                self._rows = None
            return settled

    def _replace(self, points: list[Point]) -> set[str]:
        with self._write_lock:  # one process, one lock: writers of an item come one after another
            return super()._replace(points)

    def _upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        condition = None if older_than is None else edge.Filter(must=[query.older(older_than)])
        with self._write_lock, self._translated():
            item_ids = {point.payload[names.ITEM_ID] for point in points}
            rows = self._begin_write(item_ids, SPACE_TO_GROW)
            rows.reserve(len(points))
            for some in whole_items(points, POINTS_A_CALL):
                self._check_space(SPACE_TO_GROW)
                written = [edge.Point(one.id, one.vector.tolist(), one.payload) for one in some]
                with self._together():
                    upsert = edge.UpdateOperation.upsert_points(written, condition=condition)
                    self._shard.update(upsert)
                    for item_id, own in itertools.groupby(
                        some, lambda one: one.payload[names.ITEM_ID]
                    ):
                        rows.put(item_id, np.stack([point.vector for point in own]))
            self._unflushed += len(points)
            if self._unflushed >= POINTS_A_FLUSH:
                self._shard.flush()
                self._unflushed = 0

    def _delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        older = [] if older_than is None else [query.older(older_than)]
        with self._write_lock, self._translated():
            rows = self._begin_write(set(item_ids))
            doomed = edge.Filter(must=[query.any_item(item_ids), *older])
            with self._together():
                self._shard.update(edge.UpdateOperation.delete_points_by_filter(doomed))
                if older_than is None:
                    rows.drop(item_ids)

    def _clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        with self._write_lock, self._translated():
            self._begin_write(set(item_ids))
            own = [query.any_item(item_ids), query.equals(names.GENERATION, generation)]
            marked = edge.Filter(must=[*own, query.equals(names.UNSETTLED, 1)])
            keys = [names.UNSETTLED]
            self._shard.update(edge.UpdateOperation.delete_payload_by_filter(marked, keys))

    def _payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        place = {item_id: position for position, item_id in enumerate(item_ids)}
        found = (
            [one.payload for one in self._scroll(query.of_items(item_ids), fields)] if place else []
        )
        return sorted(found, key=lambda one: (place[one[names.ITEM_ID]], one[names.SLOT]))

    def _item_ids(self) -> Iterator[str]:
        first = edge.Filter(must=[query.equals(names.SLOT, 0)])
        for record in self._scroll(first, [names.ITEM_ID]):
            yield record.payload[names.ITEM_ID]

    def _unsettled(self) -> list[str]:
        marked = edge.Filter(must=[query.equals(names.UNSETTLED, 1)])
        found = self._scroll(marked, [names.ITEM_ID])
        return sorted({record.payload[names.ITEM_ID] for record in found})

    def _begin_write(self, item_ids: set[str], space: int = SPACE_TO_TIDY) -> ScoreRows:
        """Before a write: the rows are no longer those on disk, and an optimizer must know."""
        self._check_space(space)
        rows = self._score_rows()
        if rows.is_mostly_dead:
            rows = self._rows = rows.compacted()
        rows.begin_write()
        if self._touched is not None:
            self._touched |= item_ids
        return rows

    @contextmanager
    def _together(self) -> Iterator[None]:
        """The shard and the rows change as one; where that fails, the rows are made anew."""
        try:
            yield
        except BaseException:
            self._rows = None
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError(f"{self.location} is closed; open the index again")

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StorageFullError(
                f"{self.location} has {free / 1e6:.1f} MB of disk space left, this needs "
                f"{needed / 1e6:.1f} MB; free some and run it again"
            )

    def _score_rows(self) -> ScoreRows:
        """The matrix of vectors, read or, after a crash, made anew from the shard."""
        self._check_open()
        if self._rows is None:
            with self._write_lock, self._translated():
                if self._rows is None:
                    rows = ScoreRows(self._folder, self.metadata.dimension, self.datatype)
                    if not rows.load():
                        self._fill(rows)
                    self._rows = rows
        return self._rows

    def _fill(self, rows: ScoreRows) -> None:
        rows.reserve(self._shard.count(edge.CountRequest(exact=True)))
        for item_ids in batches(self._item_ids(), POINTS_A_CALL // self.max_personas or 1):
            together: dict[str, list[tuple[int, Any]]] = {}
            fields = [names.ITEM_ID, names.SLOT]
            for record in self._scroll(query.of_items(item_ids), fields, with_vectors=True):
                slot = (record.payload[names.SLOT], record.vector)
                together.setdefault(record.payload[names.ITEM_ID], []).append(slot)
            for item_id, slots in together.items():
                slots.sort(key=lambda one: one[0])
                rows.put(item_id, np.array([vector for _, vector in slots], dtype=np.float32))

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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Qdrant Edge raises plain Exceptions; as one of our errors, in one sentence."""
        self._check_open()
        try:
            yield
        except OSError as error:
            raise failure(self.location, str(error)) from None
        except Exception as error:
            if type(error) is not Exception:  # ours already, or a mistake in this module
                raise
            raise failure(self.location, str(error)) from None


def _may_precede_manifest(name: str) -> bool:
    """Whether a file of this name may lie in a folder where no index was created yet."""
    return name == FIRST_SHARD or name.startswith(VERSION) or is_unfinished(name)


def failure(location: str, message: str) -> Exception:
    """What Qdrant Edge or the file system said of `location`, as one of our errors."""
    _log.debug("%s: %s", location, message)
    if "WouldBlock" in message:
        return IndexLockedError(
            f"{location} is open in another process; close that one, or give this one another "
            "folder (P4R_QDRANT__PATH) or a server (P4R_QDRANT__URL)"
        )
    if any(one in message for one in ("Permission denied", "Read-only", "not permitted")):
        return InputError(
            f"{location} cannot be written to by this user; change that, or set P4R_QDRANT__PATH "
            "to another one"
        )
    if any(one in message for one in ("Not a directory", "File exists")):
        return InputError(f"{location} is no folder; set P4R_QDRANT__PATH to another one")
    if "No space left" in message:
        return StorageFullError(f"{location} has no disk space left; free some, run again")
    return IndexUnavailableError(f"{location} failed: {' '.join(message.split())[:300]}")


def _check_settings(settings: IndexSettings) -> None:
    only_server = {
        "QUANTIZATION": settings.quantization != "none",
        "SHARDS": settings.shards > 1,
        "REPLICATION": settings.replication > 1,
    }
    for name, asked in only_server.items():
        if asked:
            raise SettingsError(
                f"P4R_INDEX__{name} needs a Qdrant server: set P4R_QDRANT__URL, or unset it"
            )


def _optimize_elsewhere(folder: Path) -> None:
    """Optimize a shard nobody has open, in a process of its own."""
    code = (
        "import qdrant_edge, sys; "
        "shard = qdrant_edge.EdgeShard.load(sys.argv[1]); shard.optimize(); shard.close()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise IndexUnavailableError(f"optimizing {folder} failed: {done.stderr.strip()[-300:]}")


def _size(folder: Path) -> int:
    """Bytes on disk: sparse files count as what they hold. Files may come and go meanwhile.

    Further versions in folders of their own do not count.
    """
    size = 0
    for path in folder.rglob("*"):
        if path.relative_to(folder).parts[0].startswith(VERSION):
            continue
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size


def _number(shard: Path) -> int:
    """N of a folder shard-N."""
    number = shard.name.removeprefix("shard-")
    return int(number) if number.isdecimal() else 0


def _holes(shard: Path) -> int:
    """Bytes that opening a shard may take: it touches every page of its chunks of vectors."""
    chunks = [path.stat() for path in shard.glob("segments/*/vector_storage/**/chunk_*.mmap")]
    return sum(max(0, one.st_size - one.st_blocks * 512) for one in chunks)
