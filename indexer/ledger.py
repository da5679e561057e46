"""The ledger: every answer an LLM has given, so that none is ever asked for, or paid for, twice.

    FOLDER/<step>.jsonl    one answer a line, appended as it is received; a person can read it
    FOLDER/.lock           held by the one process that writes

A line is `{"key": ..., "ok": true, ...the caller's record}`. Where `ok` is false the request came
to nothing: its line says why, and it counts as not answered.

What survives what: when `put` returns, the line is with the operating system, so kill -9 cannot
take it. A power failure can take what was written since the last `sync`; whoever writes calls it
about once a second (`indexer/llm` does). A line that a kill tore apart is cut off when the
ledger is opened next.

Memory holds a digest and a place in the file for each answer, some 130 bytes, never a text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import portalocker
from pydantic_core import from_json

from indexer.artifacts.writing import storage_errors, written_whole
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.whole_files import remove_unfinished, sync_folder

_KEY = re.compile(r"[0-9a-f]{32}")
_STEP = re.compile(r"[a-z][a-z0-9_-]{0,63}")

_log = logging.getLogger(__name__)


class LedgerLockedError(InputError):
    """Another process is writing this ledger."""


def request_key(
    *, template: str, content: Any, model: str, parameters: Mapping[str, Any] | None = None
) -> str:
    """The key of an answer: 32 hexadecimal digits over all that could have changed it.

    `template` is the hash of the prompt's template, `content` what is put into it (any JSON
    value), `parameters` temperature, schema and the like.
    """
    parts = json.dumps([template, content, model, parameters or {}], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


class Ledger:
    """The ledger in one folder; a context manager, thread-safe.

    Raises LedgerLockedError where another process has it open, InputError where the folder
    cannot be used. With `read_only` nothing is locked, changed or created: for looking on while
    somebody else writes (what was there when it was opened is what is seen).
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._read_only = read_only
        self._files: dict[str, _StepFile] = {}
        self._mutex = threading.RLock()
        self._lock: IO[Any] | None = None
        if read_only:
            return
        with storage_errors(folder, cannot="be used"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            remove_unfinished(folder)  # what an `erase` that was killed has left

    def has(self, step: str, key: str) -> bool:
        """Whether the request is answered; a failed one is not."""
        with self._mutex:
            return self._file(step).has(_digest(key))

    def get(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of an answered request, None for any other."""
        with self._mutex:
            file, digest = self._file(step), _digest(key)
            return file.read(digest) if file.has(digest) else None

    def failure(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of a request that has only failed, the last one; None for any other."""
        with self._mutex:
            file, digest = self._file(step), _digest(key)
            return file.read(digest) if digest in file.failed else None

    def put(self, step: str, key: str, record: Mapping[str, Any], *, ok: bool = True) -> None:
        """Append what came of a request. A request that is answered already stays as it is.

        Raises StorageFullError where there is no space; nothing is half written then. Raises
        ValueError where `record` is no JSON (NaN, lone surrogates) or uses "key" or "ok".
        """
        if record.keys() & {"key", "ok"}:
            raise ValueError("a record must not have a key or ok of its own")
        if self._read_only:
            raise ValueError("this ledger was opened to be read only")
        digest = _digest(key)
        line = json.dumps({"key": key, "ok": ok, **record}, ensure_ascii=False, allow_nan=False)
        with self._mutex:
            self._file(step).append(digest, line.encode() + b"\n", ok)

    def entries(self, step: str) -> Iterator[dict[str, Any]]:
        """The records of a step as they came, with `key` and `ok`; superseded failures left out."""
        with self._mutex:
            return self._file(step).entries()

    def count(self, step: str) -> tuple[int, int]:
        """How many requests of a step are answered, and how many have only failed."""
        with self._mutex:
            file = self._file(step)
            return len(file.places) - len(file.failed), len(file.failed)

    def steps(self) -> list[str]:
        """The steps that have a file, sorted."""
        names = (path.stem for path in self.folder.glob("*.jsonl"))
        return sorted(name for name in names if _STEP.fullmatch(name))

    def erase(self, step: str, keys: Collection[str]) -> int:
        """Remove every line of these requests, for a person's right to erasure; count them.

        The file is written anew and swapped in one move, so a kill leaves the old or the new
        one. On return the new one is on the disk. Raises StorageFullError.
        """
        if self._read_only:
            raise ValueError("this ledger was opened to be read only")
        digests = {_digest(key) for key in keys}
        with self._mutex:
            return self._file(step).erase(digests)

    def sync(self) -> None:
        """Put all that was written on the disk itself, so that a power failure cannot take it."""
        with self._mutex:
            files = [file for file in self._files.values() if file.unsynced]
        for file in files:  # outside the mutex: it takes its time, and answers come in meanwhile
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
                    self._lock.close()
                    self._lock = None

    def _file(self, step: str) -> _StepFile:
        file = self._files.get(step)
        if file is None:
            if not _STEP.fullmatch(step):
                raise ValueError(f"{step!r} cannot be the name of a step")
            if self._lock is None and not self._read_only:
                raise ValueError("the ledger is closed")
            path = self.folder / f"{step}.jsonl"
            with storage_errors(path, cannot="be used"):
                file = self._files[step] = _StepFile(path, self._read_only)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _StepFile:
    """One step's file: where each answer lies, and the end it grows at."""

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        self.places: dict[bytes, int] = {}
        self.failed: set[bytes] = set()
        self.unsynced = False
        self._sync_lock = threading.RLock()
        self._fd = -1
        self._end = 0
        if read_only and not path.exists():
            return
        new = not path.exists()
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            if new:
                sync_folder(path.parent)  # the name of a new file must outlive a power failure too
            self._scan(read_only)
        except BaseException:
            self.close()
            raise

    def has(self, digest: bytes) -> bool:
        return digest in self.places and digest not in self.failed

    def read(self, digest: bytes) -> dict[str, Any]:
        start, parts = self.places[digest], list[bytes]()
        place = start
        while not parts or b"\n" not in parts[-1]:
            parts.append(os.pread(self._fd, 8192, place))
            place += len(parts[-1])
            if not parts[-1]:
                break
        line = b"".join(parts).partition(b"\n")[0]
        record = _parse(line)
        if record is None or _digest(record["key"]) != digest:
            raise InputError(
                f"{self.path} was changed by another program, at byte {start}; run again"
            )
        del record["key"], record["ok"]
        return record

    def append(self, digest: bytes, line: bytes, ok: bool) -> None:
        if self.has(digest):
            return
        try:
            with storage_errors(self.path):
                written = os.write(self._fd, line)
                while written < len(line):  # the disk is filling up: the next try says so
                    written += os.write(self._fd, line[written:])
        except P4RError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._remember(digest, ok, self._end)
        self._end += len(line)
        self.unsynced = True

    def entries(self) -> Iterator[dict[str, Any]]:
        if self._fd < 0:
            return
        with self.path.open("rb") as file:
            offset, end = 0, self._end
            for line in file:
                start, offset = offset, offset + len(line)
                if offset > end:
                    return
                record = _parse(line)
                if record is not None and self.places.get(_digest(record["key"])) == start:
                    yield record

    def erase(self, digests: set[bytes]) -> int:
        found = digests & self.places.keys()
        if not found:
            return 0
        with written_whole(self.path) as write, self.path.open("rb") as file:
            for line in file:
                record = _parse(line)
                if record is not None and _digest(record["key"]) not in found:
                    write(line.decode().rstrip("\n"))
        with self._sync_lock:  # lest a sync in another thread hold the descriptor
            self.close()
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.places.clear()
        self.failed.clear()
        self._scan(read_only=False)
        return len(found)

    def sync(self) -> None:
        with self._sync_lock:
            if self._fd >= 0:
                self.unsynced = False
                os.fsync(self._fd)

    def close(self) -> None:
        with self._sync_lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _scan(self, read_only: bool) -> None:
        """Find every answer; end the file behind the last whole line."""
        broken, offset = 0, 0
        with self.path.open("rb") as file:
            for line in file:
                record = _parse(line)
                if not line.endswith(b"\n"):
                    self._end_of_torn_file(offset, whole=record is not None, read_only=read_only)
                    if record is None:
                        break
                if record is not None:
                    self._remember(_digest(record["key"]), record["ok"], offset)
                else:
                    broken += 1
                offset += len(line.rstrip(b"\n")) + 1
        self._end = offset
        if broken:
            _log.warning(
                "%s holds %d broken lines; what they answered is asked for again",
                self.path,
                broken,
            )

    def _end_of_torn_file(self, offset: int, *, whole: bool, read_only: bool) -> None:
        if read_only:
            return
        if whole:  # all but its line break was written
            os.write(self._fd, b"\n")
        else:
            os.ftruncate(self._fd, offset)

    def _remember(self, digest: bytes, ok: bool, offset: int) -> None:
        """The first answer stays; of failures the last one counts."""
        if self.has(digest):
            return
        self.places[digest] = offset
        if ok:
            self.failed.discard(digest)
        else:
            self.failed.add(digest)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a record, None where it is broken."""
    try:
        record = from_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("ok"), bool):
        return None
    key = record.get("key")
    return record if isinstance(key, str) and _KEY.fullmatch(key) else None


def _digest(key: str) -> bytes:
    if not _KEY.fullmatch(key):
        raise ValueError("a key has 32 hexadecimal digits; make it with request_key")
    return bytes.fromhex(key)


def _locked(folder: Path) -> IO[Any]:
    path = folder / ".lock"
    lock = path.open("a")
    try:
        portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.LockException:
        lock.close()
        raise LedgerLockedError(
            f"another run is writing to {folder}; wait until it has ended, or stop it"
        ) from None
    return lock
