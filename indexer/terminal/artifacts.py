"""Artifact folders: statistics of a data set, the figures of an audit, the personas themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ASPECTS, PERSONAS
from indexer.terminal.console import err, out
from indexer.terminal.tables import Column, Table, number, print_fields
from p4r_qdrant.records import Aspects, ItemPersonas

if TYPE_CHECKING:
    from indexer.audit.wording import Section
    from indexer.datasets.stats import DatasetStats
    from indexer.updates.erasing.report import Erased

LONGEST_BAR = 30


def print_dataset(stats: DatasetStats) -> None:
    """Print what `p4r stats` counted, and the ratings as bars."""
    print_fields(stats.rows())
    histogram = stats.histogram()
    most = max(histogram.values())
    names = max(len(name) for name in histogram)
    longest = max(1, min(LONGEST_BAR, out.width - names - 26))
    letter = "#" if out.ascii_only else "█"
    table = Table("", number(""), number(""), "", header=False)
    for rating, count in histogram.items():
        bar = letter * round(longest * count / most)
        table.add(f"  {rating}", f"{count:,}", f"{count / stats.interactions:.1%}", bar)
    table.print()


def print_audit(sections: Sequence[Section], sampled: str, leak: str) -> None:
    """Print what `p4r audit` found: a table for each subject, and a leak before all else."""
    if leak:
        out.card(Text(leak), border_style="bold red")
    for section in sections:
        out.print()
        out.say(section.title, style="bold underline")
        if not section.rows:
            out.paragraph(f"not there: {section.absent}", style="dim")
            continue
        table = Table(Column("figure", style="bold"), "value", "good", "what it means")
        for row in section.rows:
            style = "bold red" if row.alarm else ""
            table.add(row.name, row.value, _GOOD[row.good], row.meaning, style=style)
        table.print()
    if sampled:
        out.print()
        out.paragraph(sampled, style="dim")


_GOOD = {"low": "lower", "high": "higher", "none": "none", "": ""}


def print_reasoned(folder: ArtifactFolder) -> None:
    """Print the personas of a small artifact folder, each with the aspects of its reviewers."""
    aspects = {
        (one.item_id, one.user_id): "; ".join(text for text in one.aspects.values() if text)
        for _, _, one in read_lines(folder.file(ASPECTS), Aspects, Refusals())
    }
    with folder.items(Refusals()) as items, folder.summaries(Refusals()) as summaries:
        for _, _, found in read_lines(folder.file(PERSONAS), ItemPersonas, Refusals()):
            item, summary = items.get(found.item_id), summaries.get(found.item_id)
            out.print()
            out.say(item.title if item else found.item_id, style="bold")
            if summary:
                out.paragraph(summary.summary, style="dim")
            for one in found.personas:
                evidence = [
                    Text(f"{user}: {aspects.get((found.item_id, user), '')}", style="dim")
                    for user in one.evidence
                ]
                name = Text(one.label, "bold cyan")
                rationale = Text(one.preference_rationale, "italic")
                out.card(name, Text(one.description), rationale, *evidence)


def print_erased(erased: Erased) -> None:
    """Print on standard error where an erasure looked, what it removed, and what remains."""
    table = Table(Column("looked at", unbroken=True), number("removed"), "what")
    for place in erased.places:
        if place.problem is not None:
            table.add(place.where, "?", str(place.problem), style="bold red")
        for what, count in place.removed.items():
            if count:
                table.add(place.where, f"{count:,}", what)
        if place.problem is None and not +place.removed:
            table.add(place.where, "0", "")
    table.print(err)
    for sentence in erased.remains:
        err.say(f"remains: {sentence}")
    err.say(f"{len(erased.items)} items to reason on again: p4r reason, then p4r index.")
    if erased.bare:
        err.say(f"{len(erased.bare)} of them have no persona left until then.")
    err.say("Take the user out of the files that p4r reason reads too, or they come back.")
