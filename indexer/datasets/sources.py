"""Stream the rows of published files: JSON Lines, CSV, Parquet, data frames.

Compression is detected from the first bytes. A broken line goes to `refusals`, and reading goes on.
A truncated file raises an error, because half a data set would look like a whole one.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import BOM, opened
from indexer.datasets import tables
from p4r_qdrant.errors import InputError

Row = dict[str, Any]
Source = Path | tables.Frame
"""A file, or a data frame (pandas, polars, Arrow)."""

MAX_LINE = 16 * 1024 * 1024
"""Most bytes of a line: it limits memory on a file that is not text."""

BROKEN_LINE = "broken line"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Format:
    """How the rows of a data set become the fields of `Item` and `Review`.

    The functions may raise ValueError for a row that makes no record. python_literals: a line that
    is not JSON may be a Python dict literal.
    """

    item: Callable[[Row], Row]
    review: Callable[[Row], Row]
    python_literals: bool = False


def read_rows(
    source: Source, refusals: Refusals, *, python_literals: bool = False
) -> Iterator[tuple[str, Row]]:
    """Stream (where, row). Raises InputError if the source cannot be read to its end."""
    if not isinstance(source, Path):
        yield from tables.frame_rows(source)
        return
    kind = source.with_suffix("") if source.suffix == ".gz" else source
    if kind.suffix == ".parquet":
        yield from tables.parquet_rows(source)
        return
    with opened(source) as file:
        if kind.suffix in _DELIMITERS:
            yield from _csv_rows(file, source, refusals, _DELIMITERS[kind.suffix])
        else:
            yield from _json_rows(file, source, refusals, python_literals)


def _json_rows(
    file: IO[bytes], path: Path, refusals: Refusals, python_literals: bool
) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        where = f"{path}:{number}"
        if len(line) > MAX_LINE:
            refusals.add(f"{where}: the line is longer than {MAX_LINE} bytes", BROKEN_LINE)
            continue
        try:
            row = _parsed(line, python_literals)
        except (ValueError, RecursionError, MemoryError) as error:
            refusals.add(f"{where}: {_json_problem(error)}", BROKEN_LINE)
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            refusals.add(f"{where}: is not a JSON object", BROKEN_LINE)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not blank; a line that is too long is cut."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
        if line.removeprefix(BOM).strip():
            yield number, line


def _parsed(line: bytes, python_literals: bool) -> Any:
    decoded = line.removeprefix(BOM).decode("utf-8")
    try:
        return json.loads(decoded)
    except json.JSONDecodeError:
        if not python_literals:
            raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a description
        warnings.simplefilter("ignore", DeprecationWarning)  # the same, before Python 3.12
        try:
            return ast.literal_eval(decoded.strip())
        except (SyntaxError, TypeError) as error:
            raise ValueError(f"is neither JSON nor a Python literal: {error}") from None


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: byte {error.start + 1}"
    if isinstance(error, (RecursionError, MemoryError)):
        return "is nested too deep"
    return str(error).splitlines()[0]


def _csv_rows(
    file: IO[bytes], path: Path, refusals: Refusals, delimiter: str
) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    # Invalid UTF-8 must survive the decoding, so that only its row is refused.
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
