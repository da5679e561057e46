"""Comparisons by an LLM as judge: its controls, and what it prefers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from indexer.terminal.console import out
from indexer.terminal.evaluation import SIGNIFICANT
from indexer.terminal.tables import Table, number, print_counts

if TYPE_CHECKING:
    from indexer.judging.figures import Judged, Share


def print_judged(judged: Judged, folder: Path) -> None:
    """Print the controls of `p4r judge`, and the preferences where the controls are passed."""
    out.print()
    _print_controls(judged)
    out.say(
        f"The same verdict in both orders: {_share(judged.consistent)}. "
        f"For the text that comes first, ties aside: {_share(judged.first)}."
    )
    if judged.preferences:
        out.print()
        _print_preferences(judged)
    elif judged.passed:
        out.say("Nothing could be compared.")
    print_counts("", judged.left_out)
    if judged.unanswered:
        print_counts("", {"comparisons whose answer is missing": judged.unanswered})
    out.say(f"results: {folder}")


def _print_controls(judged: Judged) -> None:
    table = Table("control", number("right"), number("p"), "", "what is right")
    for one in judged.controls:
        verdict = Text("passed", "green") if one.passed else Text("failed", "bold red")
        right = f"{one.right} of {one.of}"
        table.add(one.name, right, f"{one.p:.4f}", verdict, one.meaning)
    for name in judged.not_possible:
        verdict = Text("not possible", "yellow")
        table.add(name, "", "", verdict, "the artifacts hold too little")
    table.print()


def _print_preferences(judged: Judged) -> None:
    table = Table("criterion", number("won"), number("tied"), number("lost"), number("p (Holm)"))
    for each in judged.preferences:
        p = Text(f"{each.p_holm:.4f}", "bold" if each.p_holm < SIGNIFICANT else "")
        tied = f"{each.tied / each.won.of:.1%}"
        table.add(each.criterion, _share(each.won), tied, _share(each.lost), p)
    table.print()
    out.paragraph(
        f"{judged.about['ours']} against {judged.about['against']}: "
        f"{judged.preferences[0].won.of:,} comparisons by {judged.model}.",
        style="dim",
    )
    out.paragraph(
        "Won, lost: preferred in both orders, with 95 % Wilson intervals. p: two-sided sign test "
        "of wins against losses, Holm-corrected.",
        style="dim",
    )


def _share(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{share.count / share.of:.1%} [{share.low:.0%}, {share.high:.0%}]"
