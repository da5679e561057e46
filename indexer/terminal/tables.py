"""Tables that fit the width of the terminal and never cut or wrap a number or a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from indexer.terminal.console import Terminal, out

GAPS = (2, 1)
"""Spaces between two columns, and where they do not fit otherwise."""
LEAST_TEXT = 14
"""A column of text is not made narrower than this, unless its texts are shorter."""
LEAST_NAME = 6
"""The name of a column of numbers is broken to this width, where nothing else helps."""
INDENT = 4

Cell = str | Text


@dataclass(frozen=True)
class Column:
    """One column. The cells of a `number` column are right-aligned.

    unbroken: each cell stays on one line, as those of a `number` column do.
    """

    name: str
    number: bool = False
    style: str = ""
    unbroken: bool = False

    def cells_width(self, cells: list[Text]) -> tuple[int, int]:
        """The least and the best width for these cells and the name of the column."""
        longest = max((one.cell_len for one in cells), default=0)
        words = max((cell_len(word) for word in self.name.split()), default=0)
        best = max(longest, cell_len(self.name))
        if self.number:
            return max(longest, min(words, LEAST_NAME)), best
        if self.unbroken:
            return best, best
        return min(best, LEAST_TEXT), best


def number(name: str, style: str = "") -> Column:
    """A column of numbers, or of numbers with their intervals."""
    return Column(name, number=True, style=style)


class Table:
    """Rows under named columns.

    Where the columns do not fit beside each other, each row is printed as a block: its first cell,
    and under it a line for each other cell.
    """

    def __init__(self, *columns: Column | str, header: bool = True) -> None:
        self._columns = [Column(one) if isinstance(one, str) else one for one in columns]
        self._header = header
        self._rows: list[tuple[list[Text], str]] = []

    def add(self, *cells: Cell, style: str = "") -> None:
        """Add a row; texts are printed to the letter."""
        row = [one if isinstance(one, Text) else Text(one) for one in cells]
        self._rows.append((row, style))

    def print(self, console: Terminal = out) -> None:
        """Print the table, or the blocks."""
        for gap in GAPS:
            widths = self._widths(console.width - gap * (len(self._columns) - 1))
            if widths is not None:
                self._print_columns(console, widths, gap)
                return
        self._print_blocks(console)

    def _print_columns(self, console: Terminal, widths: list[int], gap: int) -> None:
        table = RichTable(
            box=None,
            padding=(0, gap, 0, 0),
            pad_edge=False,
            show_header=self._header,
            header_style="bold",
        )
        for column, width in zip(self._columns, widths, strict=True):
            table.add_column(
                Text(column.name),
                justify="right" if column.number else "left",
                style=column.style,
                width=width,
                overflow="fold",
            )
        for row, style in self._rows:
            table.add_row(*row, style=style or None)
        console.print(table, highlight=False)

    def _widths(self, room: int) -> list[int] | None:
        """The width of each column; None where they do not fit into the room."""
        cells = [[row[at] for row, _ in self._rows] for at in range(len(self._columns))]
        named = self._columns if self._header else [Column("", c.number) for c in self._columns]
        both = [column.cells_width(own) for column, own in zip(named, cells, strict=True)]
        least, widths = [one for one, _ in both], [best for _, best in both]
        if sum(least) > room:
            return None
        while sum(widths) > room:
            slack = [w if w > low else 0 for w, low in zip(widths, least, strict=True)]
            widths[slack.index(max(slack))] -= 1
        return widths

    def _print_blocks(self, console: Terminal) -> None:
        for row, style in self._rows:
            first, *others = row
            unbroken = self._columns[0].unbroken
            console.print(first, style=style or "bold", highlight=False, soft_wrap=unbroken)
            for column, cell in zip(self._columns[1:], others, strict=True):
                if not cell.plain:
                    continue
                name = Text(column.name, "dim")
                beside = Text("  ").join((name, cell)) if column.name else cell
                if INDENT // 2 + beside.cell_len <= console.width:
                    self._print_indented(console, beside, INDENT // 2, style)
                else:
                    self._print_indented(console, name, INDENT // 2, style)
                    self._print_indented(console, cell, INDENT, style)

    @staticmethod
    def _print_indented(console: Terminal, text: Text, indent: int, style: str) -> None:
        padded = Padding(text, (0, 0, 0, indent), expand=False)
        console.print(padded, style=style or None, highlight=False)


def print_fields(fields: Mapping[str, Cell], console: Terminal = out) -> None:
    """Print a name and a value on each line; empty values are left out."""
    table = Table(Column("", style="bold"), "", header=False)
    for name, value in fields.items():
        if value:
            table.add(name, value)
    table.print(console)


def print_counts(what: str, counts: Mapping[str, int], console: Terminal = out) -> None:
    """Print one line for each count."""
    if counts:
        table = Table(number(""), number(""), "", header=False)
        for name, count in counts.items():
            table.add(f"{what:>9}", f"{count:>7,}", name)
        table.print(console)
