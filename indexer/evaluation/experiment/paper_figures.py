"""The paper's own figures, to stand beside those of an experiment, and the form of both.

Source: Persona4Rec (arXiv 2602.21756), Tables 4 to 7 and 10, read in a conversion of its PDF to
text, and compared with the percentages that the paper derives from them. HR@20 of LightGCN on Yelp
is left out: it is printed as .0106, which is below HR@10. Its Figures 4 to 6 are drawings.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

FOLDER = Path(__file__).parent / "paper"


@dataclass(frozen=True)
class MetricRow:
    """One line of a table of metrics; None for a value that is not known."""

    line: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class MetricGroup:
    """The lines of one data set, generator and number of candidates. theirs: of the paper."""

    title: str
    rows: Sequence[MetricRow]
    theirs: bool = False


def beside(own: Sequence[MetricGroup], table: str, columns: Sequence[str]) -> list[MetricGroup]:
    """The groups of an experiment and then those of the paper's table; none without own ones."""
    return [*own, *_groups(table, columns)] if own else []


def one_request() -> list[dict[str, str]]:
    """The rows of Table 7: line, latency and memory, as printed."""
    return list(_rows("table7"))


def _groups(table: str, columns: Sequence[str]) -> Iterator[MetricGroup]:
    for place, rows in groupby(_rows(table), lambda row: f"{row['data']}, {row['generator']}"):
        yield MetricGroup(
            f"the paper's own: {place}, 20 candidates",
            [MetricRow(row["line"], [_value(row.get(name)) for name in columns]) for row in rows],
            theirs=True,
        )


def _value(text: str | None) -> float | None:
    return float(text) if text else None


def _rows(table: str) -> Iterator[dict[str, str]]:
    with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
