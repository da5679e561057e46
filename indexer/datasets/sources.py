"""Rows of published files, as streams: JSON Lines, CSV, Parquet, data frames.

Compressed or not is seen from the first bytes. A broken line never stops a reader: it goes to
the caller's `Refusals`. A file that breaks off does: half a data set would look like a whole one.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from indexer.artifacts.lines import Refusals
from indexer.datasets import tables
from p4r_qdrant.errors import InputError

Row = dict[str, Any]
Source = Path | tables.Frame
"""A file, or a data frame (pandas, polars, Arrow)."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes a line may have: memory stays flat on a file that is no text."""

BROKEN_LINE = "broken line"
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Format:
    """A data set's own part: how its rows become the fields of `Item` and `Review`.

    The functions may raise ValueError for a row that makes none. `python_literals`: lines that
    are no JSON may be Python dict literals.
    """

    item: Callable[[Row], Row]
    review: Callable[[Row], Row]
    python_literals: bool = False


def read_rows(
    source: Source, refusals: Refusals, *, python_literals: bool = False
) -> Iterator[tuple[str, Row]]:
    """Stream (where, row). Raises InputError where the source cannot be read to its end."""
    if not isinstance(source, Path):
        yield from tables.frame_rows(source)
        return
    kind = source.with_suffix("") if source.suffix == ".gz" else source
    if kind.suffix == ".parquet":
        yield from tables.parquet_rows(source)
        return
    with _opened(source) as file:
        if kind.suffix in _DELIMITERS:
            yield from _csv_rows(file, source, refusals, _DELIMITERS[kind.suffix])
        else:
            yield from _json_rows(file, source, refusals, python_literals)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            if file.peek(len(_GZIP)).startswith(_GZIP):
                unpacked = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))
                yield io.BufferedReader(cast("io.RawIOBase", unpacked), 1024 * 1024)
            else:
                yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is damaged or cut short ({error}); fetch it again") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _json_rows(
    file: IO[bytes], path: Path, refusals: Refusals, python_literals: bool
) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        where = f"{path}:{number}"
        if len(line) > MAX_LINE:
            refusals.add(f"{where}: a line may have {MAX_LINE} bytes, this has more", BROKEN_LINE)
            continue
        try:
            row = _parsed(line, python_literals)
        except (ValueError, RecursionError, MemoryError) as error:
            refusals.add(f"{where}: {_json_problem(error)}", BROKEN_LINE)
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            refusals.add(f"{where}: is no JSON object", BROKEN_LINE)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not blank; one that is too long comes cut."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
        if line.removeprefix(_BOM).strip():
            yield number, line


def _parsed(line: bytes, python_literals: bool) -> Any:
    decoded = line.removeprefix(_BOM).decode("utf-8")
    try:
        return json.loads(decoded)
    except json.JSONDecodeError:
        if not python_literals:
            raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in somebody's description
        warnings.simplefilter("ignore", DeprecationWarning)  # the same, before Python 3.12
        try:
            return ast.literal_eval(decoded.strip())
        except (SyntaxError, TypeError) as error:
            raise ValueError(f"is neither JSON nor a Python literal: {error}") from None


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is no JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: byte {error.start + 1}"
    if isinstance(error, (RecursionError, MemoryError)):
        return "is nested too deep"
    return str(error).splitlines()[0]


def _csv_rows(
    file: IO[bytes], path: Path, refusals: Refusals, delimiter: str
) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    # What is not UTF-8 must survive the decoding, so that only its row is refused.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, delimiter=delimiter)
    try:
        _ = reader.fieldnames  # reads the header, so that the next row is on line 2
    except csv.Error as error:
        raise InputError(f"{path}:1: the header cannot be read: {error}") from None
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            text.detach()
            return
        except csv.Error as error:
            refusals.add(f"{where}: {error}", BROKEN_LINE)
            continue
        if None in row:
            refusals.add(f"{where}: has more fields than the header", BROKEN_LINE)
        elif not all(_is_utf8(value) for value in row.values() if value):
            refusals.add(f"{where}: is not UTF-8", BROKEN_LINE)
        else:
            yield where, row


def _is_utf8(value: str) -> bool:
    return value.isascii() or not any("\udc80" <= one <= "\udcff" for one in value)
