"""Setting up: the effective settings, the findings of the doctor, the result of a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from indexer.terminal.console import out, print_refusals
from indexer.terminal.tables import Column, Table, number, print_counts

if TYPE_CHECKING:
    from indexer.checking import CheckReport
    from indexer.configuration import Effective
    from indexer.doctor import Finding

_STYLES = {"ok": "green", "off": "dim", "failed": "bold red"}


def print_settings(settings: Sequence[Effective]) -> None:
    """Print every setting with its value and its source; bold if it is not the default."""
    table = Table("setting", "value", "from")
    for one in settings:
        shown = one.shown
        if shown is None:
            value = Text("not set", "dim")
        else:
            value = Text(str(shown).lower() if isinstance(shown, bool) else str(shown))
        changed = one.source != "default"
        place = f"{one.setting.section}.{one.setting.name}"
        table.add(place, value, one.source, style="bold" if changed else "")
    table.print()


def print_finding(finding: Finding) -> None:
    """Print one line: what was probed, whether it is fine, and what to do."""
    table = Table(Column("", style="bold"), "", "", header=False)
    state = Text(f"{finding.state:<6}", _STYLES[finding.state])
    table.add(f"{finding.name:<11}", state, finding.text)
    table.print()


def print_check(report: CheckReport) -> None:
    """Print the count of each file, and on standard error each problem."""
    folders = {one.path.parent for one in report.files}
    in_one_folder = len(folders) == 1
    if in_one_folder:
        out.say(f"the folder {min(folders)}")
    table = Table("file", number("records"), number("broken"))
    for one in report.files:
        style = "bold red" if one.broken else ""
        path = one.path.name if in_one_folder else str(one.path)
        table.add(path, f"{one.records:,}", f"{one.broken:,}", style=style)
    table.print()
    print_counts("", report.notes)
    print_refusals(report.refusals)
    if not report.broken:
        out.paragraph("Nothing is broken.")
