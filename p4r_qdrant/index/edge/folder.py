"""The folder of an embedded index: its manifest, its shards, and the disk space they take.

FOLDER/manifest.json   the metadata of the index, and the name of the current shard
FOLDER/shard-N*/       the Qdrant Edge shard: all points
FOLDER/columns-N/      the columns of the collaborative part (`columns.py`)
FOLDER/rows.*          the vectors as a matrix for scoring, derived (`matrix.py`)
FOLDER/sums.json       checksums of manifest and shard, while the index is closed (`sums.py`)
FOLDER/.lock           held by the one process that has the index open
FOLDER/version-*/      further versions of the index, each such a folder (`versions.py`)
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import qdrant_edge as edge

from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    StorageFullError,
)
from p4r_qdrant.file_lock import take
from p4r_qdrant.index.edge.serving import SERVING, address_at
from p4r_qdrant.index.edge.shards import create_shard
from p4r_qdrant.index.edge.sums import BEFORE, SUMS, FileSums
from p4r_qdrant.index.edge.trackers import damage_of
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.settings import IndexSettings
from p4r_qdrant.whole_files import is_unfinished, write_whole

MANIFEST = "manifest.json"
LOCK = ".lock"
WRITER = ".writer"
"""The lock of a publish, which goes on when the folder is closed (`versions.py`)."""
FIRST_SHARD = "shard-1"
"""The shard of a new folder. Without a manifest, a killed `create` left it."""
COLUMNS = "columns-"
"""Prefix of the folders of sets of columns (`columns.py`)."""
PUBLISHES = "publishes"
"""The file with the number of the newest publish (`versions.py`)."""
VERSION = "version-"
"""Prefix of the folders of further versions."""
SPACE_TO_GROW = 48 << 20
"""Free bytes on the disk that adding points needs. Qdrant Edge writes through sparse memory maps:
on a full disk that ends in SIGBUS, which kills the process, and not in an error."""
SPACE_TO_TIDY = 4 << 20
"""Free bytes that writes which add little need: deletions and the end of a replacement."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json holds.

    datatype: number format of the vectors as the shard was made. fields: those that the caller
    declared to filter on, and their types. They have no payload index: each would be several files,
    and candidates are found by their ids.
    """

    metadata: IndexMetadata
    shard: str
    datatype: str
    fields: Mapping[str, str] = field(default_factory=dict)


class EdgeFolder:
    """The files of one embedded index. Methods raise the project's errors where noted.

    Others raise OSError, or Exception from Qdrant Edge: call them inside `translated`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = f"the folder {path}"
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []
        """The folders that `lock` has made, the innermost first."""
        self._sums = FileSums(path)

    def lock(self) -> None:
        """Lock the folder for this process until `unlock`; make the folder if it does not exist.

        Raises IndexLockedError if another process has it open, or is just making it.
        """
        with self.translated():
            self._made = [one for one in (self.path, *self.path.parents) if not one.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = take(self.path / LOCK)
        if self._lock is None:
            raise self._locked()

    def unlock(self) -> None:
        """Release the lock. Unlocking twice is fine."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read_manifest(self) -> Manifest | None:
        """Read manifest.json; None if there is no index here yet.

        Raises IndexMismatchError if the folder holds something else or the manifest is broken.
        """
        path = self.path / MANIFEST
        with self.translated():
            if not path.exists():
                self._check_no_other_files()
                return None
            text = path.read_bytes()
        try:
            manifest = json.loads(text)
            stored, shard = manifest["metadata"], manifest["shard"]
            datatype = np.dtype(manifest["datatype"]).name
            fields = {str(one): str(kind) for one, kind in manifest.get("fields", {}).items()}
            if Path(shard).name != shard or not (self.path / shard).is_dir():
                raise ValueError(f"there is no {shard} beside it")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexMismatchError(f"{path} is broken ({error}); index again elsewhere") from None
        metadata = IndexMetadata.from_json(stored, self.location)
        return Manifest(metadata, str(shard), datatype, fields)

    def _check_no_other_files(self) -> None:
        found = self.path.iterdir() if self.path.exists() else ()
        if not all(_may_precede_manifest(one.name) for one in found):
            raise IndexMismatchError(
                f"{self.location} holds something else than a persona index; "
                "choose another one with P4R_QDRANT__PATH"
            )

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace manifest.json in one step."""
        stored = {
            "metadata": manifest.metadata.to_json(),
            "shard": manifest.shard,
            "datatype": manifest.datatype,
            "fields": dict(manifest.fields),
        }
        write_whole(self.path / MANIFEST, json.dumps(stored, indent=1))

    def create(self, metadata: IndexMetadata, settings: IndexSettings) -> Manifest:
        """Make a new index in the locked folder; it counts as one once its manifest is written.

        If that fails, a folder that `lock` has made is removed.
        """
        manifest = Manifest(metadata, FIRST_SHARD, settings.datatype)
        try:
            with self.translated():
                self.check_space(SPACE_TO_GROW)
                self.check_unused()
                for path in self._shards():  # a killed `create` left them
                    shutil.rmtree(path)
                create_shard(self.path / FIRST_SHARD, metadata.dimension, settings).close()
                self.write_manifest(manifest)
        except BaseException:
            self._unmake()
            raise
        return manifest

    def _unmake(self) -> None:
        """Remove the folders that `lock` has made, unless something else is in them by now."""
        if self.path in self._made:
            for path in self._shards():
                shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
                for path in self._made:
                    path.rmdir()

    def check_unused(self) -> None:
        """Raise IndexLockedError if an earlier release, which does not lock, has it open."""
        for path in self._shards():
            with suppress(IndexUnavailableError), self.translated():
                edge.EdgeShard.load(str(path)).close()

    def load_shard(self, name: str) -> edge.EdgeShard:
        """Open a shard, after its files and the manifest were compared with their checksums.

        Without checksums, as after a kill, only the lists of point ids are checked.
        Raises IndexUnavailableError if one is damaged, StorageFullError if the disk has no room for
        the shard's sparse files.
        """
        was_closed = (self.path / SUMS).exists()
        if damage := self._sums.take() or ("" if was_closed else damage_of(self.path / name)):
            raise self.damaged(damage)
        self.check_space(_holes(self.path / name))
        return edge.EdgeShard.load(str(self.path / name))

    def write_sums(self, shard: str, *, all_anew: bool) -> None:
        """Note the checksums of the manifest and of a shard that is closed. Raises OSError.

        all_anew: also those of files that look unchanged since they were compared.
        """
        files = (path for path in sorted((self.path / shard).rglob("*")) if path.is_file())
        self._sums.write([self.path / MANIFEST, *files], all_anew=all_anew)

    def next_shards(self, count: int) -> list[Path]:
        """Paths for new shards; no other process, not even one left by a kill, takes them too."""
        last, own = max(map(_number, self._shards())), secrets.token_hex(4)
        return [self.path / f"shard-{last + one}-{own}" for one in range(1, count + 1)]

    def remove_other_shards(self, kept: str) -> None:
        """Delete all shards except `kept`: a crash or a swap left them."""
        for path in self._shards():
            if path.name != kept:
                shutil.rmtree(path, ignore_errors=True)

    def _shards(self) -> list[Path]:
        return [path for path in self.path.glob("shard-*") if path.is_dir()]

    def check_space(self, needed: int) -> None:
        """Raise StorageFullError unless the disk has `needed` free bytes."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StorageFullError(
                f"{self.location} has {free / 1e6:.1f} MB of disk space left, this needs "
                f"{needed / 1e6:.1f} MB; free some and run it again"
            )

    def size(self) -> int:
        """Bytes of this version on the disk. Sparse files count as the blocks that they have."""
        return sum(
            _blocks(path)
            for path in self.path.rglob("*")
            if not path.relative_to(self.path).parts[0].startswith(VERSION)
        )

    def shard_size(self, name: str) -> int:
        """Bytes of a shard on the disk."""
        return sum(map(_blocks, (self.path / name).rglob("*")))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate the exceptions of Qdrant Edge and the file system into the project's."""
        try:
            yield
        except OSError as error:
            raise failure(self.location, str(error)) from None
        except Exception as error:
            if type(error) is not Exception:  # the project's already, or a bug
                raise
            if "WouldBlock" in str(error):
                raise self._locked() from None
            raise failure(self.location, str(error)) from None
        except BaseException as error:
            # Qdrant Edge panics over files that it does not understand.
            if type(error).__name__ != "PanicException":
                raise
            raise self.damaged(f"Qdrant Edge stopped: {error}") from None

    def damaged(self, what: str) -> IndexUnavailableError:
        """The error of a folder in which something is damaged."""
        return IndexUnavailableError(
            f"{self.location} is damaged ({' '.join(what.split())[:300]}); put a copy of it in "
            "its place, or delete it and index the artifacts again"
        )

    def _locked(self) -> IndexLockedError:
        is_version = self.path.name.startswith(VERSION)
        if address := address_at(self.path.parent if is_version else self.path):
            return IndexLockedError(
                f"{self.location} is open in `p4r serve` at {address}: ask that one "
                f"({address}/docs; GET /v1/items/ITEM/personas shows an item), or stop it"
            )
        return IndexLockedError(
            f"{self.location} is open in another process; close that one, or give this one another "
            "folder (P4R_QDRANT__PATH) or a server (P4R_QDRANT__URL)"
        )


def _may_precede_manifest(name: str) -> bool:
    """Whether a folder without an index may hold a file of this name."""
    return (
        name in (FIRST_SHARD, SERVING, LOCK, WRITER, SUMS, BEFORE, PUBLISHES)
        or name.startswith(VERSION)
        or is_unfinished(name)
    )


def failure(location: str, message: str) -> Exception:
    """An error of Qdrant Edge or the file system at `location` as one of the project's."""
    _log.debug("%s: %s", location, message)
    if any(one in message for one in ("Permission denied", "Read-only", "not permitted")):
        return InputError(
            f"{location} cannot be written to by this user; change that, or set P4R_QDRANT__PATH "
            "to another one"
        )
    if "Too many levels" in message:
        return InputError(
            f"{location} leads through a link that is not followed, or has one in it; remove the "
            "link, or set P4R_QDRANT__PATH to another folder"
        )
    if any(one in message for one in ("Not a directory", "File exists")):
        return InputError(f"{location} is not a folder; set P4R_QDRANT__PATH to another one")
    if "name too long" in message:
        return InputError(f"{location} has too long a name; set P4R_QDRANT__PATH to a shorter one")
    if "No space left" in message:
        return StorageFullError(f"{location} has no disk space left; free some, run again")
    return IndexUnavailableError(f"{location} failed: {' '.join(message.split())[:300]}")


def _blocks(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 if it was deleted meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat().st_blocks * 512
    return 0


def _number(shard: Path) -> int:
    """N of a folder shard-N or shard-N-XXXXXXXX."""
    number = shard.name.split("-")[1]
    return int(number) if number.isdecimal() else 0


def _holes(shard: Path) -> int:
    """Bytes that opening a shard may take: it touches every page of its chunks of vectors."""
    chunks = [path.stat() for path in shard.glob("segments/*/vector_storage/**/chunk_*.mmap")]
    return sum(max(0, one.st_size - one.st_blocks * 512) for one in chunks)
