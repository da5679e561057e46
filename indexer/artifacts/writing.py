"""Write and rewrite whole files, and explain the errors of the file system."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from indexer.artifacts.lines import Model, Refusals, as_line, parse_line
from indexer.artifacts.names import is_private
from indexer.artifacts.opening import BOM, is_packed, opened_lines
from p4r_qdrant.errors import InputError, RecordError, StorageFullError
from p4r_qdrant.whole_files import whole_file

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def storage_errors(
    path: Path, *, kept: str = "all up to here is kept", cannot: str = "be written"
) -> Iterator[None]:
    """Turn each OSError of the block into a sentence about `path`.

    Raises: StorageFullError where no space is left, with what is `kept`; else InputError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"no space left to write {path} ({kept}); free some space and run again"
            ) from None
        raise InputError(f"{path} cannot {cannot}: {error.strerror}") from None


@contextmanager
def written_bytes(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file that gets its new content at the end of the block, or keeps the old one.

    private: it holds people's words, as files of some names always do (`is_private`): only its
    owner may read it.

    Yields: a binary file object. See `whole_file` for links, pipes and devices.
    Raises: InputError if the file cannot be written, StorageFullError if the disk is full.
    """
    if not path.name or path.name == ".." or os.path.isdir(path):  # noqa: PTH112 - never raises
        raise InputError(f"{path} cannot be written: it is a folder; name a file")
    whole = whole_file(path, private=private or is_private(path.name))
    with storage_errors(path, kept="nothing was written"), whole as file:
        yield file


@contextmanager
def written_whole(
    path: Path, *, packed: bool | None = None, private: bool = False
) -> Iterator[Callable[[str], None]]:
    """Write text lines to a file that gets them all at the end of the block, or none.

    packed: with gzip; None packs a file whose name ends in .gz. private: see `written_bytes`.
    Yields: a function that writes one line, as UTF-8. The path "-" is standard output.
    Raises: InputError if the file cannot be written, StorageFullError if the disk is full.
    """
    if str(path) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # whatever encoding the terminal has
        yield lambda line: print(line)  # noqa: T201 - this is where output is asked for
        return
    with contextlib.ExitStack() as stack:
        file: BinaryIO | gzip.GzipFile = stack.enter_context(written_bytes(path, private=private))
        if packed or (packed is None and path.suffix == ".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", mtime=0))

        def write(line: str) -> None:
            file.write(line.encode(errors="surrogateescape") + b"\n")

        yield write


def rewrite(
    path: Path,
    model: type[Model],
    changed: Callable[[Model], BaseModel | None],
    *,
    more: Callable[[], Iterable[BaseModel]] = tuple,
    broken: Refusals | None = None,
) -> None:
    """Rewrite a file of records, all of it or nothing. A missing file is an empty one.

    changed: returns the new record, or None to remove it. An unchanged record keeps its line.
    more: is called at the end; returns records to append.
    broken: gets the broken lines, which are then removed. Without it they stay as they are.
    Raises: InputError if the file cannot be written, StorageFullError if the disk is full.
    """
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(opened_lines(path)) if path.is_file() else None
        packed = lines is not None and is_packed(lines)
        write = stack.enter_context(written_whole(path, packed=packed))
        for number, line in enumerate(lines or (), start=1):
            if not line.removeprefix(BOM).strip():
                continue
            try:
                record = parse_line(line, model, f"{path}:{number}")
            except RecordError as error:
                if broken is not None:
                    broken.add(f"{error}; the line was removed", "broken record removed")
                else:
                    write(line.decode(errors="surrogateescape").rstrip("\r\n"))
                continue
            after = changed(record)
            if after == record:
                write(line.decode().rstrip("\r\n"))
            elif after is not None:
                write(as_line(after))
        for record_after in more():
            write(as_line(record_after))
