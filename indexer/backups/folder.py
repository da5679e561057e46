"""The folder of a backup.

    backup.json                     the manifest, written last
    unfinished.json                 the manifest so far, until then
    personas-0-00001.jsonl.gz       payloads of personas of version 0, a line each
    personas-0-00001.vectors.npy    their vectors, a row each
    columns-..., interactions-..., jobs-...    the other sections

Files are written whole, private to their owner, and about 20 MB large at most.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from indexer.artifacts.writing import storage_errors
from indexer.backups.manifest import File, Manifest, Part, Section
from p4r_qdrant.errors import IndexLockedError, InputError
from p4r_qdrant.file_lock import LOCK_FILE, take
from p4r_qdrant.whole_files import PRIVATE, is_unfinished, whole_file, write_whole

MANIFEST, UNFINISHED, LOCK = "backup.json", "unfinished.json", ".lock"
GO_ON = "what is written is kept"

_PART = re.compile(rf"({'|'.join(get_args(Section))})-\d+-\d{{5}}\.[a-z.]+")

Arrays = Mapping[str, npt.NDArray[Any]]


class BackupFolder:
    """The files of one backup. Raises InputError, and StorageFullError where the disk is full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that makes the folder and keeps other backups out of it.

        Raises IndexLockedError if another process writes to it.
        """
        with storage_errors(self.path, kept=GO_ON):
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True)
            lock = take(self.path / LOCK, LOCK_FILE, PRIVATE)
        if lock is None:
            raise IndexLockedError(
                f"another backup is being written to {self.path}; wait for it, or name another "
                "folder"
            )
        with lock:
            yield

    def begun(self) -> Manifest | None:
        """The manifest of a backup that was killed; None if the folder is new.

        Raises InputError if the folder holds a whole backup, or anything else.
        """
        with storage_errors(self.path, cannot="be read"):
            names = {one.name for one in self.path.iterdir() if not is_unfinished(one.name)}
        if MANIFEST in names:
            self._forget_unfinished()
            raise InputError(f"{self.path} holds a backup already; name another folder")
        if UNFINISHED in names:
            try:
                return self._read(UNFINISHED)
            except InputError:
                raise InputError(
                    f"{self.path / UNFINISHED} cannot be read as the beginning of a backup, so it "
                    "cannot go on; name another folder"
                ) from None
        if names - {LOCK}:
            raise InputError(f"{self.path} holds other files; name a new or an empty folder")
        return None

    def holds(self, manifest: Manifest) -> bool:
        """Whether the files of all parts of the manifest are as they were written."""
        try:
            for part in manifest.parts:
                self.check(part)
        except InputError:
            return False
        return True

    def keep_only(self, manifest: Manifest) -> None:
        """Delete the parts that the manifest does not name; a killed backup left them."""
        named = {file.name for part in manifest.parts for file in part.files}
        with storage_errors(self.path, kept=GO_ON):
            for path in self.path.iterdir():
                if _PART.fullmatch(path.name) and path.name not in named:
                    path.unlink()

    def write(
        self, name: str, lines: Sequence[str], arrays: Arrays
    ) -> tuple[File, dict[str, File]]:
        """Write the files of a part."""
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=3, mtime=0) as file:
            file.writelines(f"{line}\n".encode() for line in lines)
        written = {}
        for label, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            written[label] = self._write(f"{name}.{label}.npy", content.getvalue())
        return self._write(f"{name}.jsonl.gz", packed.getvalue()), written

    def _write(self, name: str, content: bytes) -> File:
        path = self.path / name
        with storage_errors(path, kept=GO_ON), whole_file(path, private=True) as file:
            file.write(content)
        return File(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def note(self, manifest: Manifest) -> None:
        """Store the manifest so far."""
        self._write_manifest(UNFINISHED, manifest)

    def finish(self, manifest: Manifest) -> None:
        """Store the whole manifest: now it is a backup."""
        self._write_manifest(MANIFEST, manifest)
        self._forget_unfinished()

    def _forget_unfinished(self) -> None:
        with storage_errors(self.path, cannot="be written"):
            (self.path / UNFINISHED).unlink(missing_ok=True)

    def _write_manifest(self, name: str, manifest: Manifest) -> None:
        path = self.path / name
        with storage_errors(path, kept=GO_ON):
            write_whole(path, manifest.to_text(), private=True)

    def remove(self, manifest: Manifest) -> None:
        """Delete the backup, its manifest last, and the folder unless other files are in it."""
        parts = [file.name for part in manifest.parts for file in part.files]
        with storage_errors(self.path, cannot="be deleted"):
            for name in (*parts, UNFINISHED, LOCK, MANIFEST):
                (self.path / name).unlink(missing_ok=True)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Delete the folder if nothing is in it."""
        with suppress(OSError):
            self.path.rmdir()

    # -- reading ------------------------------------------------------------------------------

    def is_whole(self) -> bool:
        """Whether a backup was written to its end here."""
        return os.path.exists(self.path / MANIFEST)  # noqa: PTH110 - never raises

    def manifest(self) -> Manifest:
        """The manifest of a whole backup. Raises InputError."""
        if not os.path.isdir(self.path):  # noqa: PTH112 - never raises
            raise InputError(f"there is no folder {self.path}; name the folder of a backup")
        if not self.is_whole():
            if (self.path / UNFINISHED).exists():
                raise InputError(
                    f"the backup in {self.path} was not written to its end; run `p4r backup "
                    f"{self.path}` again, which goes on"
                )
            raise InputError(f"{self.path} holds no backup (there is no {MANIFEST} in it)")
        return self._read(MANIFEST)

    def _read(self, name: str) -> Manifest:
        path = self.path / name
        with storage_errors(path, cannot="be read"), self._open(path) as file:
            return Manifest.from_text(file.read(), path)

    def check(self, part: Part) -> None:
        """Compare the files of a part with their checksums. Raises InputError that names one."""
        for file in part.files:
            path = self.path / file.name
            with storage_errors(path, cannot="be read"), self._open(path) as opened:
                size = os.fstat(opened.fileno()).st_size
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if size != file.size:
                raise InputError(
                    f"{path} has {size} bytes, not {file.size}; take another copy of the backup"
                )
            if found != file.sha256:
                raise InputError(
                    f"{path} differs from its checksum; take another copy of the backup"
                )

    def read(self, part: Part) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        """The lines and the arrays of a part. Raises InputError if they do not belong together."""
        path = self.path / part.lines.name
        try:
            with storage_errors(path, cannot="be read"):
                with self._open(path) as packed, gzip.GzipFile(fileobj=packed) as file:
                    lines = [json.loads(line) for line in file]
                arrays = {
                    label: np.load(self.path / file.name, allow_pickle=False)
                    for label, file in part.arrays.items()
                }
            if len(lines) != part.records:
                raise ValueError(f"it has {len(lines)} lines")
        except (ValueError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path} is damaged ({error}); take another copy of the backup"
            ) from None
        return lines, arrays

    def _open(self, path: Path) -> io.BufferedReader:
        if not path.exists():
            raise InputError(f"{path} is missing; take another copy of the backup")
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path} is no file; take another copy of the backup")
        return path.open("rb")
