"""Rankings: an item's place before and after, and why it is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from rich.padding import Padding
from rich.text import Text

from indexer.terminal.console import out
from indexer.terminal.tables import Column, Table, number
from p4r_qdrant.records import Because, Interaction, Parts, RankedItem, Ranking

REASONS_SHOWN = 3
SHOWN = 5
"""Items before and after, beside each other."""
HISTORY_SHOWN = 6


def print_ranking(
    user_id: str,
    ranking: Ranking,
    titles: Mapping[str, str],
    history: Sequence[Interaction] = (),
    reasons: int | None = REASONS_SHOWN,
) -> None:
    """Print a user's candidates before and after, and why the first `reasons` items are there."""
    print_reader(user_id, history, personalized=ranking.personalized)
    table = Table(
        number("now"), number("was"), "item", number("score"), Column("persona", style="cyan")
    )
    for item in ranking.items:
        table.add(
            str(item.rank),
            Text.assemble(f"{item.generator_rank} ", moved(item)),
            title_of(item, titles),
            "-" if item.score is None else f"{item.score:.3f}",
            item.persona.label if item.persona else "",
        )
    table.print()
    for item in ranking.items[:reasons]:
        if item.why:
            _print_why(item, titles)


def print_before_and_after(
    user_id: str,
    ranking: Ranking,
    titles: Mapping[str, str],
    history: Sequence[Interaction],
    chosen: Collection[str],
) -> None:
    """Print one screen: the first items before and after, and why some of them are there.

    The reasons are those of the first items whose persona is among the `chosen` persona ids.
    """
    print_reader(user_id, history, personalized=ranking.personalized)
    before = sorted(ranking.items, key=lambda item: item.generator_rank)
    table = Table(number(""), "before", "after", number("was"))
    for old, new in list(zip(before, ranking.items, strict=True))[:SHOWN]:
        was = Text.assemble(f"{new.generator_rank} ", moved(new))
        table.add(str(new.rank), title_of(old, titles), title_of(new, titles), was)
    table.print()
    good = (one for one in ranking.items if one.persona and one.persona.persona_id in chosen)
    for item in islice(good, REASONS_SHOWN):
        assert item.persona is not None  # noqa: S101 - for the type checker
        title = f"{item.rank}. {title_of(item, titles)}"
        out.print()
        out.print(Text.assemble((title, "bold"), "  ", (item.why, "cyan")))
        _indented(Text(item.persona.preference_rationale))
        if item.because:
            _indented(Text(f"because of {because(item.because)}", style="dim"))


def _indented(text: Text) -> None:
    out.print(Padding(text, (0, 0, 0, 3)), highlight=False)


def print_reader(user_id: str, history: Sequence[Interaction], *, personalized: bool) -> None:
    """Print who the ranking is for, and the history it comes from."""
    out.print()
    out.heading(user_id)
    if history:
        recent = "; ".join(one.title or one.item_id for one in history[:HISTORY_SHOWN])
        others = len(history) - HISTORY_SHOWN
        more = f"; {others} more" if others > 0 else ""
        out.paragraph(f"has read or used, newest first: {recent}{more}", style="dim")
    if not personalized:
        out.paragraph("No history: the generator's order was kept.", style="yellow")


def moved(item: RankedItem) -> Text:
    """By how many places an item has moved, and whether up or down."""
    up, down, same = ("^", "v", "=") if out.ascii_only else ("▲", "▼", "·")
    by = item.generator_rank - item.rank
    if by == 0:
        return Text(same, style="dim")
    return Text(f"{up}{by}", style="green") if by > 0 else Text(f"{down}{-by}", style="red")


def title_of(item: RankedItem, titles: Mapping[str, str]) -> str:
    """The title of an item, or its id."""
    return titles.get(item.item_id) or item.item_id


def because(reasons: Sequence[Because]) -> str:
    """The interactions that a score comes from, with their shares."""
    return "; ".join(
        f"{one.title or one.item_id} {one.share:.0%}" for one in reasons[:REASONS_SHOWN]
    )


def carried(parts: Parts) -> str:
    """What each part carried of a score; parts that carried nothing are not named."""
    return ", ".join(f"{name} {value:+.2f}" for name, value in parts._asdict().items() if value)


def _print_why(item: RankedItem, titles: Mapping[str, str]) -> None:
    lines = [Text(item.persona.preference_rationale)] if item.persona else []
    if item.because:
        lines.append(Text.assemble(("because of  ", "bold"), because(item.because)))
    if item.chosen_with:
        lines.append(Text.assemble(("chosen with  ", "bold"), because(item.chosen_with)))
    if item.parts:
        lines.append(Text.assemble(("score  ", "bold"), carried(item.parts)))
    title = Text(f"{item.rank}. {title_of(item, titles)}: {item.why}", "bold cyan")
    out.card(title, *lines, border_style="cyan")
