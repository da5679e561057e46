"""Evaluations and experiments: metrics with their intervals, compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from indexer.evaluation.experiment.conclusions import primary
from indexer.evaluation.experiment.pooled import sentences
from indexer.terminal.console import out
from indexer.terminal.tables import Table, number, print_counts

if TYPE_CHECKING:
    from indexer.evaluation.evaluate import Evaluated, Evaluation

SIGNIFICANT = 0.05


def print_evaluation(found: Evaluation, name: str, against: str) -> None:
    """Print what `p4r evaluate` found: all users, the segments, and what was odd."""
    everybody, *parts = found.parts
    compared = bool(everybody.differences)
    table = _metric_table(f"{everybody.users:,} users", name, against if compared else None)
    for metric in everybody.metrics:
        table.add(metric, *_metric_cells(everybody, metric))
    ceilings = [f"{everybody.ceiling:.4f}"]
    if compared:
        theirs = everybody.against_ceiling
        ceilings += ["" if theirs is None else f"{theirs:.4f}", "", ""]
    table.add("ceiling", *ceilings, style="dim")
    table.print()
    if parts:
        table = _metric_table("NDCG@10", name, against if compared else None)
        for part in parts:
            label = f"{part.name} ({part.rule}): {part.users:,}"
            table.add(label, *_metric_cells(part, "NDCG@10"))
        out.print()
        table.print()
    out.paragraph(
        "Means with 95 % bootstrap intervals. Ceiling: the share of users whose item is in the "
        "list at all; no reordering gets beyond it."
        + (" p: paired randomization test, Holm-corrected." if compared else ""),
        style="dim",
    )
    for file, lists in ((name, found.lists), (against, found.against_lists)):
        if lists is not None:
            out.paragraph(f"{file}: lists of {lists.shortest} to {lists.longest} entries")
            print_counts("", lists.notes)
    print_counts("", found.notes)


def _metric_table(first: str, name: str, against: str | None) -> Table:
    others = [] if against is None else [number(against), number("difference"), number("p")]
    return Table(first, number(name), *others)


def _metric_cells(part: Evaluated, metric: str) -> list[Text]:
    ours = part.metrics[metric]
    cells = [Text(f"{ours.mean:.4f} [{ours.low:.3f}, {ours.high:.3f}]")]
    if part.differences:
        gap, theirs = part.differences[metric], part.against[metric].mean
        relative = f" {gap.mean / theirs:+.0%}" if theirs else ""
        cells += [
            Text(f"{theirs:.4f}"),
            Text(f"{gap.mean:+.3f}{relative} [{gap.low:+.3f}, {gap.high:+.3f}]"),
            Text(f"{gap.p:.4f}", style="bold" if gap.p < SIGNIFICANT else ""),
        ]
    return cells


def print_experiment(results: Mapping[str, Any]) -> None:
    """Print the main table of an experiment, in short."""
    table = Table("generator", "order", number("NDCG@10"), number("vs. own"), number("p (Holm)"))
    for row in results["main"]:
        one, gap = row["metrics"]["NDCG@10"], row.get("own")
        relative = gap and gap["relative"]
        table.add(
            f"{row['generator']}, {row['candidates']}",
            row["line"],
            f"{one['mean']:.4f} [{one['low']:.3f}, {one['high']:.3f}]",
            "" if relative is None else f"{relative:+.1%}",
            f"{gap['p_holm']:.3f}" if gap else "",
            style="dim" if row["encoder"] is None else "",
        )
    table.print()
    if results["peers"]:
        _print_peers(results["peers"])
    for sentence in primary(results):
        out.paragraph(sentence)
    if results["leaking"]:
        out.paragraph("One line of this experiment leaks, on purpose.", style="bold red")
    for check in results["leaks"]:
        if check["vouched"]:
            out.paragraph(f"{check['vouched']}.", style="bold red")


def _print_peers(found: Mapping[str, Any]) -> None:
    """Print the LLM rerankers of an experiment beside personas, in short."""
    metrics = ("HR@10", "MRR@10", "NDCG@10")
    columns = (*metrics, "vs. own", "p (Holm)", "failed", "tau")
    table = Table("generator", "order", *map(number, columns))
    for row in found["lines"]:
        gap, asked = row["own"], row["asked"]
        relative, tau = gap and gap["relative"], asked and asked["tau"]
        table.add(
            f"{row['generator']}, {row['candidates']}",
            row["line"],
            *(f"{row['metrics'][name]['mean']:.4f}" for name in metrics),
            "" if relative is None else f"{relative:+.1%}",
            f"{gap['p_holm']:.3f}" if gap else "",
            f"{asked['failed_share']:.1%}" if asked else "",
            f"{tau['mean']:.2f}" if tau else "",
            style="dim" if row["kind"] == "generator" else "",
        )
    out.print()
    table.print()
    out.paragraph(
        f"{found['users']:,} users; the LLM is {found['model']}. Tau: Kendall's tau between the "
        "order from the generator's list and the order from a shuffled one.",
        style="dim",
    )


def print_pooled(rows: list[dict[str, Any]]) -> None:
    """Print what several experiments say together."""
    for sentence in sentences(rows):
        out.paragraph(sentence)
