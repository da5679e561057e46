"""What people see in a terminal: rankings, personas, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
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
    from indexer.llm import LLM, Answer
    from indexer.reasoning.run import Estimate
    from indexer.reasoning.step import Step, StepReport
    from indexer.training.run import Trained
    from indexer.training.tune import Tuning

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


class ReasoningProgress:
    """A bar a step with tokens, cost and failures, and the table at the end; a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[spent]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._llm: LLM | None = None
        self._reports: dict[str, StepReport] = {}

    def follow(self, llm: LLM) -> None:
        """Show what this LLM spends."""
        self._llm = llm

    def began(self, step: Step, requests: int) -> None:
        """A step of so many requests begins."""
        self._tasks[step.name] = self._bars.add_task(step.name, total=requests, spent="")

    def told(self, step: Step, answer: Answer) -> None:  # noqa: ARG002 - the tally knows
        """One more answer."""
        self._bars.update(self._tasks[step.name], advance=1, spent=self._spent(step.name))

    def wrote(self, step: Step, report: StepReport) -> None:
        """A step's artifact is written."""
        self._reports[step.name] = report

    def print(self) -> None:
        """What each step asked, spent and wrote."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("step", "written", "asked", "known", "failed", "retries", "tokens", "cost"):
            table.add_column(name, justify="left" if name == "step" else "right")
        for name, report in self._reports.items():
            tally = self._llm.tallies.get(name) if self._llm else None
            asked = tally.answered + tally.failed if tally else 0
            table.add_row(
                name,
                f"{report.written:,}",
                f"{asked:,}",
                f"{tally.known:,}" if tally else "0",
                f"{tally.failed:,}" if tally else "0",
                f"{tally.retries:,}" if tally else "0",
                f"{tally.usage.tokens:,}" if tally else "0",
                _dollars(tally.usage.cost_usd if tally else 0.0),
            )
        out.print(table)
        for name, report in self._reports.items():
            left_out = {what: count for what, count in report.left_out.items() if count}
            if report.unanswered:
                left_out["inputs whose answer is missing: run it again"] = report.unanswered
            for what, count in left_out.items():
                out.print(f"{name}: {count:,} {what}", markup=False, highlight=False)

    def _spent(self, name: str) -> str:
        tally = self._llm.tallies.get(name) if self._llm else None
        if tally is None:
            return ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        return f"{tally.usage.tokens:,} tokens, {_dollars(tally.usage.cost_usd)}{failed}"

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def print_estimates(estimates: Mapping[str, Estimate]) -> None:
    """What a run would ask and cost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "to ask", "known", "tokens in", "tokens out", "cost"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, one in estimates.items():
        if one.complete:
            table.add_row(
                name,
                f"{one.requests:,}",
                f"{one.known:,}",
                f"{one.prompt_tokens:,}",
                f"{one.completion_tokens:,}",
                _dollars(one.cost_usd),
            )
        else:
            table.add_row(name, "?", "?", "?", "?", "?")
    out.print(table)
    complete = all(one.complete for one in estimates.values())
    if not complete:
        out.print("?: counted once the steps before it have run", highlight=False)
    known = [one.cost_usd for one in estimates.values() if one.complete]
    if None not in known:
        total = sum(cost for cost in known if cost is not None)
        about = "about" if complete else "at least"
        out.print(f"in all {about} {_dollars(total)}; nothing was asked", highlight=False)


def _dollars(cost: float | None) -> str:
    return "price not known" if cost is None else f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"


def print_ranking(
    user_id: str,
    ranking: Ranking,
    titles: Mapping[str, str],
    history: Sequence[Interaction] = (),
    told: int | None = 3,
) -> None:
    """One user's candidates before and after, and why each of the first `told` ones is there."""
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
    for item in ranking.items[:told]:
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


def print_training(trained: Trained) -> None:
    """What `p4r train` says at the end."""
    record = trained.record
    metrics = record.metrics
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("validation items")
    for name in ("NDCG@10", "MRR"):
        table.add_column(name, justify="right")
    history = f"{record.history.length} interactions, decay {record.history.decay:g}"
    for name, prefix in (("untrained", "untrained_"), ("trained", ""), (history, "tuned_")):
        table.add_row(name, *(f"{metrics[prefix + one]:.4f}" for one in ("ndcg", "mrr")))
    out.print(table)
    for what, count in trained.left_out.items():
        out.print(f"left out: {count:,} {what}", markup=False, highlight=False)
    if not trained.is_better:
        err.print(
            "This adapter reranks the validation items no better than the untrained encoder.",
            style="yellow",
        )
    done = "trained on" if trained.fresh else "was trained before on"
    out.print(
        f"{trained.adapter} {done} {record.examples:,} examples ({record.validation}); serve it "
        f"with P4R_ENCODER__ADAPTER={trained.adapter}, and make the index again",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_tuning(tuning: Tuning, shown: int = 10) -> None:
    """What `p4r tune` says: the best settings of the history."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("length", "decay", "NDCG@10", "MRR"):
        table.add_column(name, justify="right")
    for one in tuning.tried[:shown]:
        table.add_row(
            str(one.history.length),
            f"{one.history.decay:g}",
            f"{one.metrics.ndcg:.4f}",
            f"{one.metrics.mrr:.4f}",
        )
    out.print(table)
    best = tuning.tried[0].history
    out.print(
        f"best of {len(tuning.tried)} on {tuning.validation}; "
        + (
            f"recorded in {tuning.recorded}"
            if tuning.recorded
            else f"set P4R_HISTORY__LENGTH={best.length} P4R_HISTORY__DECAY={best.decay:g}"
        ),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


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
