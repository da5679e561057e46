"""What people see in a terminal: rankings, personas, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from indexer.artifacts import Refusals
from p4r_qdrant.index.base import IndexStats
from p4r_qdrant.records import Because, Interaction, RankedItem, Ranking, StoredPersona

# emoji=False: a text may hold ":book:" and mean it.
if TYPE_CHECKING:
    from indexer.datasets.stats import DatasetStats

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def progress() -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def print_refusals(refusals: Refusals) -> None:
    """Say on standard error what was refused, and how often for each reason."""
    for sentence in refusals.sentences:
        err.print(f"refused: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if refusals.total > len(refusals.sentences):
        err.print(f"... and {refusals.total - len(refusals.sentences)} more", highlight=False)
    if refusals.total:
        reasons = ", ".join(f"{count} {reason}" for reason, count in refusals.counts.most_common())
        err.print(f"refused in all: {reasons}", markup=False, highlight=False)


def print_counts(what: str, counts: Mapping[str, int]) -> None:
    """A line for each thing that was counted."""
    for name, count in counts.items():
        out.print(f"{what:>9}  {count:>7,}  {name}", markup=False, highlight=False)


def print_ranking(
    user_id: str,
    ranking: Ranking,
    titles: Mapping[str, str],
    history: Sequence[Interaction] = (),
) -> None:
    """One user's candidates before and after, and why each of the first ones is there."""
    out.print()
    out.rule(Text(f"{user_id}", style="bold"))
    if history:
        recent = ", ".join(one.title or one.item_id for one in history)
        out.print(Text(f"has read or used, newest first: {recent}", style="dim"))
    if not ranking.personalized:
        out.print("[yellow]No history: the generator's order was kept.[/yellow]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("now", justify="right")
    table.add_column("was", justify="right")
    table.add_column("item")
    table.add_column("score", justify="right")
    table.add_column("persona", style="cyan")
    for item in ranking.items:
        table.add_row(
            str(item.rank),
            f"{item.generator_rank} {_moved(item)}",
            escape(titles.get(item.item_id) or item.item_id),
            "-" if item.score is None else f"{item.score:.3f}",
            escape(item.persona.name) if item.persona else "",
        )
    out.print(table)
    for item in ranking.items[:3]:
        if item.persona is not None:
            out.print(_why(item, titles))


def print_personas(item_id: str, personas: Sequence[StoredPersona]) -> None:
    """An item's personas, each with its texts."""
    first = personas[0]
    title = str(first.fields.get("item_title", ""))
    parts: list[Text | Panel] = []
    if summary := first.fields.get("summary"):
        parts.append(Text(str(summary), style="dim"))
    parts += [
        Panel(
            Group(Text(one.description), Text(one.preference_rationale, style="italic")),
            title=Text(f"{one.persona_id}  {one.name}", style="bold cyan"),
            subtitle=Text(f"evidence: {one.fields.get('evidence_count', 0)}", style="dim"),
            title_align="left",
            subtitle_align="right",
        )
        for one in personas
    ]
    out.print(Text(f"{item_id}  {title}", style="bold"), *parts, sep="\n")


def print_dataset(stats: DatasetStats) -> None:
    """What `p4r stats` says: the table, and the ratings as bars."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in stats.rows().items():
        table.add_row(name, value)
    histogram = stats.histogram()
    most = max(histogram.values())
    for rating, count in histogram.items():
        bar = "█" * round(30 * count / most)
        table.add_row(f"  {rating}", f"{count:>11,}  {count / stats.interactions:>5.1%}  {bar}")
    out.print(table)


def print_stats(stats: IndexStats) -> None:
    """What `p4r status` says."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "engine": stats.engine,
        "where": stats.location,
        "items": f"{stats.items:,}",
        "personas": f"{stats.personas:,}",
        "encoder": stats.metadata.encoder,
        "fingerprint": stats.metadata.fingerprint,
        "dimension": str(stats.metadata.dimension),
        "created": stats.metadata.created_at,
        **stats.details,
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    out.print(table)


def _moved(item: RankedItem) -> str:
    by = item.generator_rank - item.rank
    if by == 0:
        return "[dim]·[/dim]"
    return f"[green]▲{by}[/green]" if by > 0 else f"[red]▼{-by}[/red]"


def _why(item: RankedItem, titles: Mapping[str, str]) -> Panel:
    persona = item.persona
    assert persona is not None  # noqa: S101 - the caller has looked
    lines = [Text(persona.preference_rationale)]
    if item.because:
        lines.append(Text.assemble(("because of  ", "bold"), _because(item.because)))
    return Panel(
        Group(*lines),
        title=Text(f"{item.rank}. {titles.get(item.item_id) or item.item_id} - {persona.name}"),
        title_align="left",
        border_style="cyan",
    )


def _because(reasons: Sequence[Because]) -> str:
    return ", ".join(f"{one.title or one.item_id} {one.share:.0%}" for one in reasons[:3])
