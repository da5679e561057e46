"""Read lines as they arrive, from standard input or a growing file."""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.artifacts.opening import GZIP, MAX_LINE, check_json_lines, opened_lines
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

POLL_S = 0.2

Line = bytes | Item | Review
"""A line, or a record that was read already."""


def incoming(source: Path, *, follow: bool) -> Iterator[bytes]:
    """Stream the lines of a file, or of standard input for "-".

    follow: wait for more lines at the end of the file, for ever. A file that is truncated or
        replaced is read again from its start. An incomplete line is waited for.
    A line over MAX_LINE bytes is yielded as b"".
    Raises: InputError if the file cannot be read: at once, and for standard input when the first
    line is waited for.
    """
    if str(source) == "-":
        return _lines(source, None, follow=False)
    return _lines(source, _opened(source, follow), follow=follow)


def _lines(source: Path, file: io.BufferedReader | None, *, follow: bool) -> Iterator[bytes]:
    file = file or _opened(source, follow)
    part, skipped = b"", False
    try:
        while True:
            piece = file.readline(MAX_LINE)
            if not piece and not follow:
                break
            if not piece and _is_another(source, file):
                file.close()
                file = _opened(source, follow)
                part, skipped = b"", False
            elif not piece:
                time.sleep(POLL_S)
            elif piece.endswith(b"\n"):
                if not skipped:
                    yield part + piece
                part, skipped = b"", False
            elif not skipped:
                part += piece
                if len(part) >= MAX_LINE:
                    yield b""
                    part, skipped = b"", True
        if part:
            yield part
    finally:
        file.close()


def _opened(source: Path, follow: bool) -> io.BufferedReader:
    name = source
    try:
        if str(source) == "-":
            name = Path("standard input")
            file = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
        else:
            file = source.open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from None
    if not follow:
        return opened_lines(name, file)
    try:
        head = file.peek()
        if head.startswith(GZIP):
            raise InputError(f"{source} is packed with gzip and cannot be followed; unpack it")
        check_json_lines(source, head)
    except InputError:
        file.close()
        raise
    return file


def _is_another(source: Path, file: io.BufferedReader) -> bool:
    """Whether the path names another file now, or the file was truncated."""
    try:
        now = source.stat()
    except OSError:
        return False  # the old file is gone, the new one is not there yet
    return now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell()


class Inbox:
    """Reads lines on a thread, so that waiting for a line blocks nothing else."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._queue: queue.Queue[Line | Exception | None] = queue.Queue(10_000)
        self._lines = lines
        self.ended = False
        # A daemon thread, because a read of standard input cannot be interrupted.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._queue.put(line)
            self._queue.put(None)
        except Exception as error:  # `take` raises it again
            self._queue.put(error)

    def take(self, most: int) -> Iterator[Line]:
        """The lines that have arrived, at most `most`. Raises what reading raised."""
        for _ in range(most):
            try:
                line = self._queue.get_nowait()
            except queue.Empty:
                return
            if line is None or isinstance(line, Exception):
                self.ended = True
                if line is not None:
                    raise line
                return
            yield line

    @property
    def empty(self) -> bool:
        """Whether all lines that arrived are taken."""
        return self._queue.empty()
