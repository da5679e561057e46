"""The index: its state, its versions, the personas of an item, what a publish did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from indexer.terminal.console import err, out
from indexer.terminal.tables import Column, Table, number, print_fields
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.records import PersonaMatch, StoredPersona
from p4r_qdrant.rerank.status import status_fields

if TYPE_CHECKING:
    from indexer.evaluation.leaks.report import Check
    from indexer.indexing.items import Source
    from indexer.indexing.publish import Published
    from p4r_qdrant.index.versions import Version, Versions


def print_stats(stats: IndexStats, versions: Sequence[Version] = (), live: str = "") -> None:
    """Print what `p4r status` shows; `versions` are all versions, `live` is the one in use."""
    print_fields(status_fields(stats, versions, live))


def warn_of_leak(check: Check) -> None:
    """Warn that rankings cannot be evaluated, if the collaborative part knows what is held out."""
    if not check.leaks:
        return
    err.say(
        f"Do not evaluate these rankings against splits.jsonl ({check.name}: {check.examples[0]}). "
        "For that, publish with --training-only.",
        style="yellow",
    )


def tell_of_lost_part(versions: Versions) -> None:
    """Say that the live version has no collaborative part, if another version has one."""
    live = versions.live()
    with_part = {one.name for one in versions.all() if one.metadata.collaborative}
    if with_part and live not in with_part:
        err.say(
            f"{live} has no collaborative part, so personas alone make the score: p4r erase takes "
            "the part out of versions that are not live. Publish the artifacts with the encoder of "
            "this version to fit it again.",
            style="yellow",
        )


def print_personas(item_id: str, personas: Sequence[StoredPersona]) -> None:
    """Print an item's personas with their texts."""
    first = personas[0]
    out.say(f"{item_id}  {first.fields.get('item_title', '')}", style="bold")
    if summary := first.fields.get("summary"):
        out.paragraph(str(summary), style="dim")
    for one in personas:
        out.card(
            Text(f"{one.persona_id}  {one.label}", "bold cyan"),
            Text(one.description),
            Text(one.preference_rationale, "italic"),
            Text(f"evidence: {one.fields.get('evidence_count', 0)}", "dim"),
        )


def print_found(matches: Sequence[PersonaMatch]) -> None:
    """Print the items that a search by a person found, each with its nearest persona."""
    if not matches:
        out.say("No item matches.")
        return
    table = Table(number(""), "item", number("score"), Column("persona", style="cyan"))
    for place, one in enumerate(matches, start=1):
        title = str(one.persona.fields.get("item_title") or "") if one.persona else ""
        score = "-" if one.score is None else f"{one.score:.3f}"
        persona = one.persona.label if one.persona else ""
        table.add(str(place), f"{title}  {one.item_id}".strip(), score, persona)
    table.print()


def print_published(version: str, location: str, report: Published | None = None) -> None:
    """Print what `p4r publish` did; without a report, it only switched."""
    if report is not None:
        out.say(
            f"{report.written} items written, {report.unchanged} unchanged, {report.removed} "
            f"removed, {report.refused} records refused"
        )
        print_review(report.review)
        out.say(f"collaborative part: {report.collaborative}")
        out.say(f"weights of the score: {report.weights}")
        if report.users:
            out.say(f"{report.users} users of the service encoded")
        if report.kept_because:
            out.say(report.kept_because)
        if report.not_noted:
            err.say(f"the history lacks this publish: {report.not_noted}")
        for name in report.outdated_in:
            out.say(
                f"{name} is in use and may hold personas that rest on erased users, or rejected "
                "ones: run this again when it is not, before a rollback"
            )
    out.say(f"live: {version}, {location}")
    if report is not None and report.previous:
        out.say(f"before: {report.previous} (p4r publish --rollback switches back)")


def print_review(sentences: Sequence[str]) -> None:
    """Print what decisions and rules withhold from an index."""
    for sentence in sentences:
        out.say(sentence)


def print_too_long(source: Source) -> None:
    """Print how many of the texts that were encoded are longer than the encoder reads."""
    for sentence in source.lengths.said() if source.lengths else ():
        err.say(sentence, style="yellow")


def print_dropped(dropped: Sequence[str], in_use: Sequence[str]) -> None:
    """Print what `p4r publish --drop-old` deleted."""
    nothing = "nothing, there are no others than the live and the previous one"
    out.say(f"deleted: {', '.join(dropped) or nothing}")
    for name in in_use:
        out.say(f"in use, and kept: {name}")
