"""The segments of a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from indexer.artifacts.names import AUDIENCE
from indexer.terminal.console import out
from indexer.terminal.tables import Column, Table, number

if TYPE_CHECKING:
    from indexer.segments.segmenting import Segmented


def print_segments(found: Segmented, smallest: int, folder: Path, *, audience: bool) -> None:
    """Print each segment with its size, its share of users and a persona."""
    table = Table(
        "id",
        Column("segment", style="cyan"),
        number("personas"),
        number("items"),
        number("users"),
        "nearest persona",
    )
    for one in found.segments:
        share = "-" if one.share is None else f"{one.share:.0%}"
        nearest = one.examples[0].name if one.examples else ""
        table.add(one.id, one.name, f"{one.personas:,}", f"{one.items:,}", share, nearest)
    table.print()
    if found.users:
        out.paragraph(
            f"{found.users:,} users; segments with fewer than {smallest} are not counted (-)"
        )
    if audience:
        out.say(f"written: {folder / AUDIENCE}, without {found.left_out:,} users of such segments")
