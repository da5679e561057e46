"""Why an item is not among a user's first."""

from __future__ import annotations

from rich.text import Text

from indexer.terminal.console import out
from indexer.terminal.tables import Column, Table, number
from p4r_qdrant.index.payload import ITEM_TITLE
from p4r_qdrant.records import RankedItem, WhyNot


def print_why_not(user_id: str, found: WhyNot) -> None:
    """Print both items beside each other, what makes the difference, and what would lift it."""
    out.print()
    out.heading(f"{user_id}: {_title(found.item)}")
    table = Table(number("rank"), "item", number("score"), Column("persona", style="cyan"))
    for item in filter(None, (found.threshold, found.item)):
        score = "-" if item.score is None else f"{item.score:.3f}"
        persona = item.persona.label if item.persona else ""
        table.add(str(item.rank), _title(item), score, persona)
    table.print()
    differences = found.differences._asdict().items()
    parts = {name: value for name, value in differences if value is not None}
    if parts:
        carried = ", ".join(f"{name} {value:+.3f}" for name, value in parts.items())
        out.print(Text.assemble(("difference  ", "bold"), carried), highlight=False)
    for item in filter(None, (found.threshold, found.item)):
        if item.why:
            out.print(Text.assemble((f"{item.rank}  ", "bold"), item.why), highlight=False)
    out.paragraph(found.advice, style="green" if found.change else "yellow")


def _title(item: RankedItem) -> str:
    title = item.persona.fields.get(ITEM_TITLE) if item.persona else None
    return str(title or item.item_id)
