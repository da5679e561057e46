"""Read tables that people have filled in a spreadsheet: no row is lost in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import HEAD, check_delimited, opened
from indexer.datasets.delimited import SEVERAL_LINES, Layout, delimited_rows
from p4r_qdrant.errors import InputError
from p4r_qdrant.spreadsheets import from_formula_safe


def filled_rows(
    path: Path, needed: Sequence[str], known: Collection[str], refusals: Refusals, made_by: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Stream (where, row) of a table: its cells that are not empty, by column.

    Rows whose quotes or fields cannot be right go to `refusals`, where a column that is not `known`
    is noted. needed: the columns that each table of `made_by` has. Raises InputError if one is
    missing.
    """
    with opened(path) as file:
        head = file.peek(HEAD)
        check_delimited(path, head)
        first = head.decode("utf-8-sig", errors="replace").partition("\n")[0]
        has_rows = False
        for where, row in delimited_rows(file, path, refusals, Layout()):
            if not has_rows:
                _check_columns(path, needed, row.keys(), made_by)
                for name in [one for one in row if one not in known]:
                    refusals.note(f"column {name!r}, which is not read", where)
            has_rows = True
            cells = {name: from_formula_safe(value) for name, value in row.items() if value}
            if cells:
                yield where, cells
    refusals.notes.pop(SEVERAL_LINES, None)  # a cell of these tables may hold a list
    if not has_rows:
        _check_columns(path, needed, [one for one in needed if one in first], made_by)


def _check_columns(path: Path, needed: Sequence[str], found: Collection[str], made_by: str) -> None:
    if missing := [one for one in needed if one not in found]:
        raise InputError(f"{path} has no column {missing[0]!r}: {made_by} did not make this table")
