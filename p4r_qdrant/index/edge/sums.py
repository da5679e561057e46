"""Checksums of the files of an embedded index that is closed: `sums.json`.

They are renamed to `sums.before.json` before the files are opened, and written when the index is
closed. After a kill, only JSON files with an unchanged size and time are compared: other files are
written through memory maps, which may leave the time unchanged.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from p4r_qdrant.whole_files import write_whole

SUMS, BEFORE = "sums.json", "sums.before.json"
BLOCK = 1 << 15
_ZEROS = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class _Sum:
    """size: bytes. sum: of the content. changed: when the file was changed (ns), if known."""

    size: int
    sum: int
    changed: int = -1


class FileSums:
    """The checksums of files under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._before = folder / SUMS, folder / BEFORE
        self._known: dict[str, _Sum] = {}

    def take(self) -> str:
        """Compare the files with their checksums, and set these aside.

        Returns what is damaged, as a part of a sentence; "" if nothing is, or if there are no
        checksums. The checksums of damaged files are kept. Raises OSError.
        """
        was_closed = self._path.exists()
        for name, noted in _read(self._path if was_closed else self._before).items():
            path = self._folder / name
            try:
                if not was_closed and not _is_untouched(path, noted):
                    continue
                found = _sum_of(path)
            except FileNotFoundError:
                if was_closed:
                    return f"{name} is missing"
                continue
            if found.size != noted.size:
                return f"{name} has {found.size} bytes, not {noted.size}"
            if found.sum != noted.sum:
                return f"the content of {name} differs from its checksum"
            self._known[name] = found
        if was_closed:
            self._path.replace(self._before)
        return ""

    def write(self, files: Iterable[Path], *, all_anew: bool) -> None:
        """Note the checksums of files that nobody writes to any more.

        all_anew: read all of them, also large ones that look unchanged since `take`.
        Raises OSError.
        """
        sums = {}
        for path in files:
            name = path.relative_to(self._folder).as_posix()
            known, signs = self._known.get(name), _signs(path.stat())
            is_same = known is not None and (known.size, known.changed) == signs
            if all_anew or known is None or not is_same or known.size <= BLOCK:
                known = _sum_of(path)
            sums[name] = [known.size, known.sum, known.changed]
        write_whole(self._path, json.dumps({"sum": _of_text(sums), "files": sums}))
        self._before.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, _Sum]:
    """The checksums; none if the file is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["sum"] != _of_text(stored["files"]):
            return {}
        return {name: _Sum(*values) for name, values in stored["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_untouched(path: Path, noted: _Sum) -> bool:
    """Whether a file surely was not written to since its checksum was noted."""
    return path.suffix == ".json" and _signs(path.stat()) == (noted.size, noted.changed)


def _of_text(sums: object) -> int:
    return zlib.crc32(json.dumps(sums, sort_keys=True).encode())


def _signs(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


def _sum_of(path: Path) -> _Sum:
    with path.open("rb", buffering=0) as file:
        size, changed = _signs(os.fstat(file.fileno()))
        total = 0
        for start in _starts(file, size):
            file.seek(start)
            block = file.read(BLOCK)
            # Zeros count as a hole: a copy of a file may have none.
            if not _ZEROS.startswith(block):
                total = zlib.crc32(block, zlib.crc32(start.to_bytes(8, "little"), total))
    return _Sum(size, total, changed)


def _starts(file: FileIO, size: int) -> Iterator[int]:
    """The offsets of the blocks that hold data: Qdrant Edge's files are mostly holes."""
    start = 0
    while start < size:
        if hasattr(os, "SEEK_DATA"):
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # there is no more data
                return
        yield start
        start += BLOCK
