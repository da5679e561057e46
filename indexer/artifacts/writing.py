"""Write whole files: all of it or nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel

from indexer.artifacts.lines import BOM, Model, Refusals, as_line, parse_line
from p4r_qdrant.errors import InputError, RecordError, StorageFullError


@contextmanager
def written_whole(path: Path) -> Iterator[Callable[[str], None]]:
    """Write lines to a file that appears when all is written, or not at all.

    Yields the function that writes one line; "-" is standard output. Raises InputError where
    the file cannot be written, StorageFullError where the disk is full.
    """
    if str(path) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file, whatever the terminal speaks
        yield lambda line: print(line)  # noqa: T201 - this is where output is asked for
        return
    if not path.name or path.name == ".." or os.path.isdir(path):  # noqa: PTH112 - never raises
        raise InputError(f"{path} cannot be written: it is a folder; name a file")
    target = Path(os.path.realpath(path))  # a link stays one
    whole = os.path.isfile(target) or not os.path.exists(target)  # noqa: PTH110, PTH113 - never raise
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished") if whole else target
    try:
        with unfinished.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield lambda line: print(line, file=file)
            file.flush()
            if whole:  # else it is a device or a pipe, and stays one
                os.fsync(file.fileno())
        if whole:
            unfinished.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(f"no space left to write {path}; nothing was written") from None
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        if whole:
            with suppress(OSError):  # as a rule it is gone, or never was
                unfinished.unlink()


def rewrite(
    path: Path,
    model: type[Model],
    changed: Callable[[Model], BaseModel | None],
    *,
    more: Callable[[], Iterable[BaseModel]] = tuple,
    broken: Refusals | None = None,
) -> None:
    """Write a file of records anew, whole or not at all: what `changed` makes of each, then `more`.

    None leaves a record out; one that does not change keeps its very line. `more` is called at
    the end. A broken line stays where it is; with `broken` it is removed and told there. A file
    that is not there is as good as an empty one.
    """
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(path.open("rb")) if path.is_file() else ()
        write = stack.enter_context(written_whole(path))
        for number, line in enumerate(lines, start=1):
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
