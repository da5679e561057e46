"""One step's file of the ledger: where each answer is, and the end where it grows."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from indexer.artifacts.writing import storage_errors, written_whole
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.whole_files import PRIVATE, sync_folder

_KEY = re.compile(r"[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class StepFile:
    """The answers of one step. Not thread-safe, except `sync` beside the other methods."""

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
        self._fd = os.open(path, flags | os.O_CLOEXEC, PRIVATE)
        try:
            if new:
                sync_folder(path.parent)  # so that the name of a new file survives a power failure
            self._scan(read_only)
        except BaseException:
            self.close()
            raise

    def has(self, digest: bytes) -> bool:
        """Whether the request is answered."""
        return digest in self.places and digest not in self.failed

    def read(self, digest: bytes) -> dict[str, Any]:
        """The record of a request, without `key` and `ok`."""
        start, parts = self.places[digest], list[bytes]()
        place = start
        while not parts or b"\n" not in parts[-1]:
            parts.append(os.pread(self._fd, 8192, place))
            place += len(parts[-1])
            if not parts[-1]:
                break
        line = b"".join(parts).partition(b"\n")[0]
        record = _parse(line)
        if record is None or digest_of(record["key"]) != digest:
            raise InputError(
                f"{self.path} was changed by another program, at byte {start}; run again"
            )
        del record["key"], record["ok"]
        return record

    def append(self, digest: bytes, line: bytes, ok: bool) -> None:
        """Append one line; ignored if the request is answered already."""
        if self.has(digest):
            return
        try:
            with storage_errors(self.path):
                written = os.write(self._fd, line)
                while written < len(line):  # a full disk raises at the next write
                    written += os.write(self._fd, line[written:])
        except P4RError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._remember(digest, ok, self._end)
        self._end += len(line)
        self.unsynced = True

    def entries(self, *, superseded: bool = False) -> Iterator[dict[str, Any]]:
        """All records in file order; superseded failures among them only if asked for."""
        if self._fd < 0:
            return
        with self.path.open("rb") as file:
            offset, end = 0, self._end
            for line in file:
                start, offset = offset, offset + len(line)
                if offset > end:
                    return
                record = _parse(line)
                if record is None:
                    continue
                if superseded or self.places.get(digest_of(record["key"])) == start:
                    yield record

    def erase(self, digests: set[bytes]) -> int:
        """Remove all lines of these requests; return how many requests were found."""
        found = digests & self.places.keys()
        if not found:
            return 0
        with written_whole(self.path) as write, self.path.open("rb") as file:
            for line in file:
                record = _parse(line)
                if record is not None and digest_of(record["key"]) not in found:
                    write(line.decode().rstrip("\n"))
        with self._sync_lock:  # another thread may be syncing the old descriptor
            self.close()
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.places.clear()
        self.failed.clear()
        self._scan(read_only=False)
        return len(found)

    def sync(self) -> None:
        """Put everything that is written on the disk."""
        with self._sync_lock:
            if self._fd >= 0:
                self.unsynced = False
                os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        with self._sync_lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _scan(self, read_only: bool) -> None:
        """Find every answer; cut the file after the last complete line."""
        broken, offset, is_torn = 0, 0, False
        with self.path.open("rb") as file:
            for line in file:
                record = _parse(line)
                is_torn = not line.endswith(b"\n")
                if record is not None:
                    self._remember(digest_of(record["key"]), record["ok"], offset)
                elif is_torn:
                    break
                else:
                    broken += 1
                offset += len(line)
        self._end = offset
        if is_torn and not read_only:
            self._mend_end()
        if broken:
            _log.warning(
                "%s holds %d broken lines; their requests are asked again",
                self.path,
                broken,
            )

    def _mend_end(self) -> None:
        """Cut off the begin of a line; end a whole line that lacks only its line break."""
        os.ftruncate(self._fd, self._end)
        if self._end and os.pread(self._fd, 1, self._end - 1) != b"\n":
            self._end += os.write(self._fd, b"\n")

    def _remember(self, digest: bytes, ok: bool, offset: int) -> None:
        """Keep the first answer, or else the last failure."""
        if self.has(digest):
            return
        self.places[digest] = offset
        if ok:
            self.failed.discard(digest)
        else:
            self.failed.add(digest)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a record; None if it is broken."""
    try:
        record = from_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("ok"), bool):
        return None
    key = record.get("key")
    return record if isinstance(key, str) and _KEY.fullmatch(key) else None


def digest_of(key: str) -> bytes:
    """The 16 bytes of a key."""
    if not _KEY.fullmatch(key):
        raise ValueError("a key has 32 hexadecimal digits; use request_key")
    return bytes.fromhex(key)
