"""Standard output and standard error as consoles, and the lines that every command prints."""

from __future__ import annotations

import os

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, Group
from rich.panel import Panel
from rich.style import StyleType
from rich.text import Text

from indexer.artifacts.lines import Refusals

RULE = 6
"""Columns for the rule beside a heading."""


class Terminal(Console):
    """A console that asks for its width and its locale each time it prints."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, emoji=False)  # a text may hold ":book:"
        self._width = None  # rich keeps the COLUMNS of the time when it was made

    @property
    def size(self) -> ConsoleDimensions:
        """Width and height in characters; COLUMNS wins."""
        columns, rows = super().size
        wanted = os.environ.get("COLUMNS", "")
        return ConsoleDimensions(int(wanted) if wanted.isdigit() and int(wanted) else columns, rows)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    @property
    def encoding(self) -> str:
        """The encoding of the stream, or ASCII where the locale is C."""
        return "ascii" if _locale() in ("C", "POSIX") else super().encoding

    @property
    def ascii_only(self) -> bool:
        """Whether lines, arrows and bars must be ASCII."""
        return not self.encoding.startswith("utf")

    def say(self, text: str, style: StyleType | None = None) -> None:
        """Print a text to the letter, as one line however long it is."""
        self.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def paragraph(self, text: str, style: StyleType | None = None) -> None:
        """Print a text to the letter, wrapped at the width of the terminal."""
        self.print(text, style=style, markup=False, highlight=False)

    def heading(self, text: str) -> None:
        """Print a text in the middle of a line, or as a paragraph where it does not fit."""
        if cell_len(text) + RULE <= self.width:
            self.rule(Text(text, style="bold"))
        else:
            self.paragraph(text, style="bold")

    def card(self, title: Text, *lines: Text, border_style: StyleType = "none") -> None:
        """Print a title and lines of text in a box; the title is wrapped as the lines are."""
        box = Panel(Group(title, *lines), border_style=border_style)
        self.print(box, highlight=False)


def _locale() -> str:
    """The locale of letters, as the environment names it."""
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    return next((value for name in names if (value := os.environ.get(name))), "")


out = Terminal()
err = Terminal(stderr=True)


def print_refusals(refusals: Refusals) -> None:
    """Print on standard error what is odd, what was refused, and the count of each reason."""
    for what, (count, first) in refusals.notes.items():
        err.say(f"note: {what}: {count:,} (the first: {first})" if first else f"note: {what}")
    for sentence in refusals.sentences:
        err.say(f"refused: {sentence}")
    if refusals.total > len(refusals.sentences):
        err.say(f"... and {refusals.total - len(refusals.sentences)} more")
    if refusals.total:
        reasons = ", ".join(f"{count} {reason}" for reason, count in refusals.counts.most_common())
        err.say(f"refused in all: {reasons}")
