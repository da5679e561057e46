"""Lines that arrive: standard input, or a file that grows."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

MAX_LINE = 16 << 20
"""Bytes of a line; a longer one is no record."""


POLL_S = 0.2

Line = bytes | Item | Review
"""A line, or a record that was read already."""


def incoming(source: Path, *, follow: bool) -> Iterator[bytes]:
    """The lines of a file, or of standard input for "-"; with `follow` for ever, as they come.

    A followed file that is cut short or replaced is read from its start again; half a line is
    waited for. A line over MAX_LINE bytes comes as b"". Raises InputError.
    """
    follow = follow and str(source) != "-"
    file = _opened(source)
    part, skipped = b"", False
    try:
        while True:
            piece = file.readline(MAX_LINE)
            if not piece and not follow:
                break
            if not piece and _is_another(source, file):
                file.close()
                file = _opened(source)
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


def _opened(source: Path) -> BinaryIO:
    if str(source) == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return source.open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from None


def _is_another(source: Path, file: BinaryIO) -> bool:
    """Whether what has the name now is not what is being read, or has become shorter."""
    try:
        now = source.stat()
    except OSError:
        return False  # between the old file and the new one
    return now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell()


class Inbox:
    """Lines read in the background, so that one that is slow to come holds up nothing."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._queue: queue.Queue[Line | Exception | None] = queue.Queue(10_000)
        self._lines = lines
        self.ended = False
        # A daemon: a read of standard input cannot be interrupted.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._queue.put(line)
            self._queue.put(None)
        except Exception as error:  # raised again where the lines are taken
            self._queue.put(error)

    def take(self, most: int) -> Iterator[Line]:
        """What has come, at most so many lines. Raises what reading raised."""
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
        """Whether nothing has come that was not taken."""
        return self._queue.empty()
