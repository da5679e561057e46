"""Reasoning with an LLM: what a run asks, how far it is, what it spent and wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from indexer.terminal.console import err, out
from indexer.terminal.progress import Count
from indexer.terminal.tables import Table, number

if TYPE_CHECKING:
    from indexer.llm import BatchProgress
    from indexer.reasoning.answering import Answerer
    from indexer.reasoning.run import Estimate
    from indexer.reasoning.step import Step, StepReport
    from indexer.updates.add import Added


class _Rate(ProgressColumn):
    """Answers per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class ReasoningProgress:
    """A bar for each step with tokens, cost and failures; a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            Count(),
            _Rate(),
            TextColumn("{task.fields[spent]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._current = ""
        self._llm: Answerer | None = None
        self._reports: dict[str, StepReport] = {}
        self._batches: dict[str, BatchProgress] = {}

    def follow(self, llm: Answerer | None) -> None:
        """Show what this LLM spends; None where no step asks."""
        self._llm = llm

    def estimated(self, step: Step, coming: Estimate) -> None:
        """Print what a step asks before it asks."""
        if coming.requests:
            tokens = coming.prompt_tokens + coming.completion_tokens
            price = f"about {tokens:,} tokens, {dollars(coming.cost_usd)}" if tokens else "free"
            outdated = f"; {_outdated(coming)}" if coming.outdated else ""
            under_way = f", {coming.under_way:,} under way" if coming.under_way else ""
            err.say(
                f"{step.name}: {coming.requests:,} to ask, {coming.known:,} known{under_way}, "
                f"{price}{outdated}"
            )

    def start(self, task: str, total: int | None = None) -> None:
        """Add a bar for a step."""
        self._current = task
        self._tasks[task] = self._bars.add_task(task, total=total, spent="")

    def advance(self, count: int = 1) -> None:
        """Move the bar of the current step."""
        task = self._tasks[self._current]
        self._bars.update(task, advance=count, spent=self._spent(self._current))

    def watch(self, batch: BatchProgress) -> None:
        """Show the state of a batch; print a line where its status is new."""
        before = self._batches.get(batch.batch_id)
        self._batches[batch.batch_id] = batch
        if before is None or before.status != batch.status:
            err.say(_batch(batch))
        if batch.step in self._tasks:
            self._bars.update(self._tasks[batch.step], spent=self._spent(batch.step))

    def written(self, step: Step, report: StepReport) -> None:
        """Keep the report of a step for the table at the end."""
        self._reports[step.name] = report

    def print(self) -> None:
        """Print what each step asked, spent and wrote."""
        names = ("written", "asked", "known", "failed", "retries", "tokens", "cost")
        table = Table("step", *map(number, names))
        for name, report in self._reports.items():
            tally = self._llm.tallies.get(name) if self._llm else None
            asked = tally.answered + tally.failed if tally else 0
            failed = tally.failed + tally.given_up if tally else 0
            table.add(
                name,
                f"{report.written:,}",
                f"{asked:,}",
                f"{tally.known:,}" if tally else "0",
                f"{failed:,}",
                f"{tally.retries:,}" if tally else "0",
                f"{tally.usage.tokens:,}" if tally else "0",
                dollars(tally.usage.cost_usd if tally else 0.0),
            )
        table.print()
        for name, report in self._reports.items():
            self._print_left_out(name, report)
        if final := sum(report.failures.final for report in self._reports.values()):
            out.paragraph(
                f"{final:,} requests have failed for good: a run with the same settings does not "
                "ask them again, unless with --retry-failed"
            )
        under_way = [batch for batch in self._batches.values() if not batch.has_ended]
        for batch in under_way:
            out.say(_batch(batch))
        if under_way:
            out.say("batches are under way: run the same command again to collect them")

    def _print_left_out(self, name: str, report: StepReport) -> None:
        """Print what is missing in the artifact of a step, and why."""
        for what, count in report.left_out.items():
            if count:
                out.paragraph(f"{name}: {count:,} {what}")
        failures = report.failures
        if report.unanswered:
            again = "" if 0 < failures.total == failures.final else ": run it again"
            out.paragraph(f"{name}: {report.unanswered:,} inputs whose answer is missing{again}")
        for count, reason, place in failures.commonest():
            such_as = f", such as for {place}" if place else ""
            out.paragraph(f"{name}: {count:,} requests without a usable answer: {reason}{such_as}")

    def _spent(self, name: str) -> str:
        tally = self._llm.tallies.get(name) if self._llm else None
        if tally is None:
            return ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        mine = [one for one in self._batches.values() if one.step == name and not one.has_ended]
        there = f"{sum(one.answered for one in mine):,}/{sum(one.requests for one in mine):,}"
        batches = f", {there} in {len(mine)} batches" if mine else ""
        return f"{tally.usage.tokens:,} tokens, {dollars(tally.usage.cost_usd)}{failed}{batches}"

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def print_estimates(estimates: Mapping[str, Estimate]) -> None:
    """Print what a run would ask and cost."""
    names = ("to ask", "known", "tokens in", "tokens out", "cost")
    table = Table("step", *map(number, names))
    for name, one in estimates.items():
        if one.complete:
            table.add(
                name,
                f"{one.requests:,}",
                f"{one.known:,}",
                f"{one.prompt_tokens:,}",
                f"{one.completion_tokens:,}",
                dollars(one.cost_usd),
            )
        else:
            table.add(name, "?", "?", "?", "?", "?")
    table.print()
    for name, one in estimates.items():
        if one.under_way:
            out.say(f"{name}: {one.under_way:,} more are under way in batches")
        if one.given_up:
            out.say(f"{name}: {one.given_up:,} have failed for good, and are not asked again")
        if one.outdated:
            out.say(f"{name}: {_outdated(one)}")
    complete = all(one.complete for one in estimates.values())
    if not complete:
        out.say("?: counted once the steps before it have run")
    known = [one.cost_usd for one in estimates.values() if one.complete]
    if None not in known:
        total = sum(cost for cost in known if cost is not None)
        about = "about" if complete else "at least"
        out.say(f"in all {about} {dollars(total)}; nothing was asked")


def print_added(added: Added) -> None:
    """Print one line for an item that `p4r add` has settled."""
    what = f"{added.personas} personas from {added.reviews} reviews"
    if added.is_withheld:
        what = f"decisions, rules or the policy withhold all {added.withheld} new personas"
    elif added.withheld:
        what += f" ({added.withheld} others withheld)"
    if added.notice:
        what += f" ({added.notice})"
    state = "written" if added.written else "unchanged"
    out.say(f"{added.item_id}  {added.problem or f'{what}, {state}'}")


def _batch(batch: BatchProgress) -> str:
    failed = f", {batch.failed:,} failed" if batch.failed else ""
    counts = f"{batch.answered:,} of {batch.requests:,} answered{failed}"
    return f"{batch.step}: {batch.batch_id} {batch.status}, {counts}"


def _outdated(one: Estimate) -> str:
    return f"the template has changed since {one.outdated:,} answers were given"


def dollars(cost: float | None) -> str:
    """A cost in US dollars, in words where it is not known."""
    if cost is None:
        return "price not known"
    return f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"
