"""Stream the rows of published files: JSON Lines, CSV, Parquet, data frames.

Compression is detected from the first bytes; where a file's name does not say so, its first lines
tell JSON Lines from text with separators. A broken line goes to `refusals`, and reading goes on.
A truncated file raises an error, because half a data set would look like a whole one.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import (
    BOM,
    HEAD,
    NOT_UTF8,
    TOO_LONG,
    bounded_lines,
    check_delimited,
    check_json_lines,
    is_delimited,
    opened,
)
from indexer.datasets import tables
from indexer.datasets.delimited import BROKEN_LINE, SUFFIXES, Layout, delimited_rows

Row = dict[str, Any]
Source = Path | tables.Frame
"""A file, or a data frame (pandas, polars, Arrow)."""

_JSON = {".json", ".jsonl", ".ndjson"}
_FOUND = Layout()


Kind = Literal["items", "reviews"]
Columns = tuple[tuple[str, ...], ...]
"""The columns that a file must have, each with the names it may have."""


@dataclass(frozen=True, slots=True)
class NamedColumn:
    """A column that the caller named: for which field of which files; `given` is how."""

    ours: str
    theirs: str
    kinds: tuple[Kind, ...]
    given: str


@dataclass(frozen=True, slots=True)
class Format:
    """How the rows of a data set become the fields of `Item` and `Review`.

    The functions may raise ValueError for a row that makes no record, and LeftOut for one that is
    none. python_literals: a line that is not JSON may be a Python dict literal. review_fields: the
    columns of reviews that are read, where others are worth a note; items keep all of theirs.
    """

    item: Callable[[Row], Row]
    review: Callable[[Row], Row]
    item_columns: Columns
    review_columns: Columns
    python_literals: bool = False
    named: tuple[NamedColumn, ...] = ()
    review_fields: frozenset[str] = frozenset()

    def columns(self, kind: Kind) -> Columns:
        """The columns that the files of items or of reviews must have."""
        return self.item_columns if kind == "items" else self.review_columns


class LeftOut(Exception):  # noqa: N818 - no error
    """A row that is no record and no mistake either; the message is the reason."""


def read_rows(
    source: Source,
    refusals: Refusals,
    *,
    python_literals: bool = False,
    layout: Layout = _FOUND,
) -> Iterator[tuple[str, Row]]:
    """Stream (where, row).

    layout: of a file with separators.
    Raises: InputError if the source is of another kind, or cannot be read to its end.
    """
    if not isinstance(source, Path):
        yield from tables.frame_rows(source)
        return
    suffix = Path(source.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".parquet":
        yield from tables.parquet_rows(source)
        return
    with opened(source) as file:
        head = file.peek(HEAD)
        is_text = suffix not in _JSON and (bool(layout.delimiter) or is_delimited(head))
        if layout.columns or suffix in SUFFIXES or is_text:
            check_delimited(source, head)
            yield from delimited_rows(file, source, refusals, layout)
        else:
            check_json_lines(source, head)
            yield from _json_rows(file, source, refusals, python_literals)


def _json_rows(
    file: IO[bytes], path: Path, refusals: Refusals, python_literals: bool
) -> Iterator[tuple[str, Row]]:
    for number, _, line in bounded_lines(file):
        where = f"{path}:{number}"
        if line is None:
            refusals.add(f"{where}: {TOO_LONG}", BROKEN_LINE)
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
        return f"byte {error.start + 1} {NOT_UTF8}"
    if isinstance(error, (RecursionError, MemoryError)):
        return "is nested too deep"
    if "integer string conversion" in str(error):
        return "holds a number with too many digits"
    return str(error).splitlines()[0]
