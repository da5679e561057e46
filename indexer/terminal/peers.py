"""Peers: what their rankings took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from indexer.terminal.console import out
from indexer.terminal.reasoning import dollars
from indexer.terminal.tables import Table, number

if TYPE_CHECKING:
    from indexer.judging.figures import Share
    from indexer.peers.bench_run import BenchResult
    from indexer.peers.cells import Cell
    from indexer.peers.rating_study import RatingRow
    from indexer.peers.results import Totals
    from indexer.peers.verdicts import Verdicts


def print_totals(totals: Sequence[Totals]) -> None:
    """Print what the rankings of each peer needed."""
    names = ("users", "calls", "tokens in", "tokens out", "cost", "repaired", "failed")
    table = Table("peer", *map(number, names))
    for one in totals:
        table.add(
            one.peer,
            f"{one.queries:,}",
            f"{one.usage.calls:,}",
            f"{one.usage.prompt_tokens:,}",
            f"{one.usage.completion_tokens:,}",
            dollars(one.usage.cost_usd),
            f"{one.repaired:,}",
            f"{one.failed:,}",
        )
    table.print()
    for one in totals:
        for what, count in one.notes.items():
            out.paragraph(f"{one.peer}: {count:,} {what}")


def print_bench(found: BenchResult) -> None:
    """Print the cells of `p4r peers bench`, and after how many requests personas pay."""
    names = ("users", "candidates", "cold", "p50", "p95", "all", "calls", "tokens")
    table = Table("peer", *map(number, (*names, "$ per 1,000", "failed")), "")
    for one in found.cells:
        table.add(*_bench_row(one), style="" if one.measured else "dim")
    table.print()
    out.paragraph(
        f"The LLM is {found.model}; seconds of uncached calls. cold: the first request. p50, p95: "
        "of one request. all: until the last answer to users who ask at the same time. calls, "
        "tokens: of one request. Dim rows are extrapolated.",
        style="dim",
    )
    memory = [f"this process {_megabytes(found.process_bytes)}"]
    if found.llm_bytes is not None:
        memory.append(f"the LLM {_megabytes(found.llm_bytes)}")
    out.paragraph(f"Resident memory: {', '.join(memory)}.")
    if found.device_bytes is not None:
        out.paragraph(f"GPU memory of this process: {_megabytes(found.device_bytes)} at most.")
    offline = found.offline
    how = "by the ledger of the artifacts" if offline.paid else "estimated"
    out.paragraph(
        f"Personas cost offline: {offline.usage.calls:,} calls, {offline.usage.tokens:,} tokens, "
        f"{dollars(offline.usage.cost_usd)} ({how}); online they ask no LLM."
    )
    for peer, requests in found.earned_back.items():
        if requests is not None:
            out.paragraph(f"{peer} has cost as much after {requests:,.0f} requests.")


def print_ratings(rows: Sequence[RatingRow]) -> None:
    """Print the errors of all predictors of ratings."""
    names = ("RMSE", "MAE", "invalid", "calls", "tokens", "cost")
    table = Table("predictor", *map(number, names), "")
    for one in rows:
        error, usage = one.error, one.usage
        table.add(
            one.name,
            f"{error.rmse:.3f} [{error.rmse_interval[0]:.2f}, {error.rmse_interval[1]:.2f}]",
            f"{error.mae:.3f} [{error.mae_interval[0]:.2f}, {error.mae_interval[1]:.2f}]",
            "" if one.invalid is None else f"{one.invalid:.1%}",
            f"{usage.calls:,}" if usage else "",
            f"{usage.tokens:,}" if usage else "",
            dollars(usage.cost_usd) if usage else "",
            "leaks: its averages include test ratings" if one.leaks else "",
        )
    table.print()
    out.paragraph(
        f"{rows[0].pairs:,} rated pairs, with 95 % bootstrap intervals. An invalid answer is "
        "counted as the mean.",
        style="dim",
    )


def _bench_row(one: Cell) -> list[str]:
    cost = "" if one.cost_usd is None else dollars(1000 * one.cost_usd)
    return [
        one.peer,
        f"{one.users:,}",
        f"{one.candidates:,}",
        *(_seconds(value) for value in (one.cold_s, one.p50_s, one.p95_s, one.wall_s)),
        f"{one.calls:.1f}",
        f"{one.tokens:,.0f}",
        cost,
        "" if one.failed_share is None else f"{one.failed_share:.1%}",
        "" if one.measured else one.note if one.p50_s is None else f"extrapolated {one.note}",
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s"


def _megabytes(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e6:,.0f} MB"


def print_verdicts(found: Verdicts) -> None:
    """Print how often each system is best, and how far raters agree."""
    table = Table("criterion", *(number(name) for name in found.systems), number("tied"), "alpha")
    for one in found.criteria:
        shares = (one.best[name] for name in found.systems)
        cells = ["-" if share is None else _share(share) for share in shares]
        tied = f"{one.ties / one.examples:.1%}" if one.examples else "-"
        alpha = "-" if one.alpha is None else f"{one.alpha:.2f}"
        table.add(one.criterion, *cells, tied, alpha)
    table.print()
    out.paragraph(
        f"{found.raters} raters. Shares of examples in which most raters call a system the best, "
        "with 95 % Wilson intervals; tied: no majority, or most say so. alpha: Krippendorff's, "
        "nominal; 1 is full agreement, 0 is chance.",
        style="dim",
    )
    if found.missing:
        out.paragraph(f"{found.missing:,} cells have no verdict.")


def _share(share: Share) -> str:
    return f"{share.count / share.of:.1%} [{share.low:.0%}, {share.high:.0%}]"
