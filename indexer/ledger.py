"""The ledger: every answer of an LLM, so that none is ever asked for, or paid for, twice.

    FOLDER/<step>.jsonl    one answer per line, appended as it comes; readable
    FOLDER/.lock           held by the one process that writes

A line is `{"key": ..., "ok": true, ...the caller's record}`. If `ok` is false, the request has
failed: its line says why, and the request counts as not answered.

Durability: when `put` returns, the operating system has the line, so kill -9 does not lose it. A
power failure loses what was written since the last `sync`; call it about once a second, as
`indexer/llm` does. A line that a kill has torn apart is cut off when the ledger is next opened.

Memory holds a digest and a place in the file for each answer (about 130 bytes), never a text.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from indexer.artifacts.formats import check_format
from indexer.artifacts.writing import storage_errors
from indexer.step_file import StepFile, digest_of
from p4r_qdrant import file_lock
from p4r_qdrant.closing import Closing
from p4r_qdrant.errors import InputError
from p4r_qdrant.whole_files import remove_unfinished

LOCK = ".lock"
LEDGER = "ledger"
"""The name of a ledger's folder in the folder of artifacts or results."""
_STEP = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class LedgerLockedError(InputError):
    """Another process is writing to this ledger."""


def request_key(
    *, template: str, content: Any, model: str, parameters: Mapping[str, Any] | None = None
) -> str:
    """The key of an answer: 32 hexadecimal digits, a hash of everything that can change it.

    template: names the prompt template. content: what is put into it (any JSON value).
    parameters: temperature, schema and the like.
    """
    parts = json.dumps([template, content, model, parameters or {}], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


class Ledger(Closing):
    """The ledger in one folder; a context manager, thread-safe.

    Raises LedgerLockedError if another process has it open, InputError if the folder cannot be
    used. With `read_only` nothing is locked, changed or created: another process may write, and
    only the answers that exist when the ledger is opened are seen.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        check_format(folder)
        self.folder = folder
        self._read_only = read_only
        self._files: dict[str, StepFile] = {}
        self._mutex = threading.RLock()
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []
        if read_only:
            return
        self._made = [one for one in (folder, *folder.parents) if not one.exists()]
        with storage_errors(folder, cannot="be used"):
            self._lock = _locked(folder)
            remove_unfinished(folder)  # left by an `erase` that was killed

    def has(self, step: str, key: str) -> bool:
        """Whether the request is answered; a failed request is not."""
        with self._mutex:
            return self._file(step).has(digest_of(key))

    def get(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of an answered request, None for any other."""
        with self._mutex:
            file, digest = self._file(step), digest_of(key)
            return file.read(digest) if file.has(digest) else None

    def failure(self, step: str, key: str) -> dict[str, Any] | None:
        """The last record of a request that has only failed; None for any other."""
        with self._mutex:
            file, digest = self._file(step), digest_of(key)
            return file.read(digest) if digest in file.failed else None

    def put(self, step: str, key: str, record: Mapping[str, Any], *, ok: bool = True) -> None:
        """Append the record of a request; ignored if the request is answered already.

        Raises StorageFullError if there is no space; then no partial line is left. Raises
        ValueError if `record` is not JSON (NaN, lone surrogates) or uses "key" or "ok".
        """
        if record.keys() & {"key", "ok"}:
            raise ValueError("a record must not have a field named key or ok")
        if self._read_only:
            raise ValueError("this ledger is read-only")
        digest = digest_of(key)
        line = json.dumps({"key": key, "ok": ok, **record}, ensure_ascii=False, allow_nan=False)
        with self._mutex:
            self._file(step).append(digest, line.encode() + b"\n", ok)

    def entries(self, step: str, *, superseded: bool = False) -> Iterator[dict[str, Any]]:
        """The records of a step in order, with `key` and `ok`.

        superseded: also failures whose request was asked again.
        """
        with self._mutex:
            return self._file(step).entries(superseded=superseded)

    def count(self, step: str) -> tuple[int, int]:
        """(answered, only failed) requests of a step."""
        with self._mutex:
            file = self._file(step)
            return len(file.places) - len(file.failed), len(file.failed)

    def steps(self) -> list[str]:
        """The steps that have a file, sorted."""
        names = (path.stem for path in self.folder.glob("*.jsonl"))
        return sorted(name for name in names if _STEP.fullmatch(name))

    def erase(self, step: str, keys: Collection[str]) -> int:
        """Remove every line of these requests, for a person's right to erasure.

        Returns how many requests were found. The file is written anew and renamed, so a kill
        leaves the old or the new one; on return the new one is on disk. Raises StorageFullError.
        """
        if self._read_only:
            raise ValueError("this ledger is read-only")
        digests = {digest_of(key) for key in keys}
        with self._mutex:
            return self._file(step).erase(digests)

    def sync(self) -> None:
        """Put everything that is written on the disk, so that a power failure does not lose it."""
        with self._mutex:
            files = [file for file in self._files.values() if file.unsynced]
        for file in files:  # outside the mutex: it is slow, and answers come in meanwhile
            with storage_errors(file.path):
                file.sync()

    def close(self) -> None:
        """Sync and release. Closing twice is fine."""
        with self._mutex:
            try:
                self.sync()
            finally:
                for file in self._files.values():
                    file.close()
                self._files.clear()
                if self._lock is not None:
                    self._remove_if_unused()
                    self._lock.close()
                    self._lock = None

    def _remove_if_unused(self) -> None:
        """Leave no folder behind if this made it and nothing was written."""
        if self._made and [path.name for path in self.folder.iterdir()] == [LOCK]:
            with suppress(OSError):  # somebody else uses them
                (self.folder / LOCK).unlink()
                for path in self._made:
                    path.rmdir()

    def _file(self, step: str) -> StepFile:
        file = self._files.get(step)
        if file is None:
            if not _STEP.fullmatch(step):
                raise ValueError(f"{step!r} is not a valid name for a step")
            if self._lock is None and not self._read_only:
                raise ValueError("the ledger is closed")
            path = self.folder / f"{step}.jsonl"
            with storage_errors(path, cannot="be used"):
                file = self._files[step] = StepFile(path, self._read_only)
        return file


def _locked(folder: Path) -> BinaryIO:
    """Make and lock the folder of a ledger."""
    lock = None
    while lock is None:
        folder.mkdir(parents=True, exist_ok=True)
        # A ledger that stays unused takes its folder away again when it is closed.
        with suppress(FileNotFoundError):
            lock = file_lock.take(folder / LOCK)
            if lock is None:
                raise LedgerLockedError(
                    f"another run is writing to {folder}; wait until it ends, or stop it"
                )
    return lock
