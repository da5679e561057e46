"""What a publish changes for readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.terminal.console import out
from indexer.terminal.tables import Column, Table, number
from p4r_qdrant.index.changes import Changes

if TYPE_CHECKING:
    from indexer.indexing.publish import Published

SHOWN = 3
"""Items named in a cell."""


def print_changes(changes: Changes) -> None:
    """Print the counts of items, and which of the first items change for which reader."""
    out.say(
        f"items: {changes.items_before:,} before, {changes.items_after:,} after; "
        f"{changes.gained:,} gained{_some(changes.examples_gained)}, "
        f"{changes.lost:,} lost{_some(changes.examples_lost)}, {changes.changed:,} changed"
    )
    table = Table(Column("synthetic reader", style="cyan"), number("changed"), "leave", "come")
    for one in changes.readers:
        if one.share:
            table.add(one.name, f"{one.share:.0%}", _named(one.left), _named(one.new))
    moved = sum(bool(one.share) for one in changes.readers)
    if moved:
        table.print()
    out.say(
        f"{moved} of {len(changes.readers)} synthetic readers get other first items; "
        f"{changes.share:.1%} of their places change"
    )


def print_preview(report: Published) -> None:
    """Print that nothing went live, and what to do."""
    if report.changes is None:
        out.say("nothing is live yet, so there is nothing to compare")
    out.say(f"preview: nothing went live; run it again without --preview ({report.version})")


def _named(item_ids: list[str]) -> str:
    more = len(item_ids) - SHOWN
    return ", ".join(item_ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _some(item_ids: tuple[str, ...]) -> str:
    return f" ({_named(list(item_ids))})" if item_ids else ""
