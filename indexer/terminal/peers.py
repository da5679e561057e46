"""Peers: what their rankings took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from indexer.terminal.console import out
from indexer.terminal.reasoning import dollars
from indexer.terminal.tables import Table, number

if TYPE_CHECKING:
    from indexer.peers.results import Totals


def print_totals(totals: Sequence[Totals]) -> None:
    """Print what the rankings of each peer needed."""
    names = ("users", "calls", "tokens in", "tokens out", "cost", "repaired", "failed")
    table = Table("peer", *map(number, names))
    for one in totals:
        table.add(
            one.peer,
            f"{one.queries:,}",
            f"{one.usage.calls:,}",
            f"{one.usage.prompt_tokens:,}",
            f"{one.usage.completion_tokens:,}",
            dollars(one.usage.cost_usd),
            f"{one.repaired:,}",
            f"{one.failed:,}",
        )
    table.print()
    for one in totals:
        for what, count in one.notes.items():
            out.paragraph(f"{one.peer}: {count:,} {what}")
