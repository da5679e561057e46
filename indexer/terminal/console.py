"""What people see in a terminal: rankings, personas, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ASPECTS, PERSONAS
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.records import (
    Aspects,
    Because,
    Interaction,
    ItemPersonas,
    RankedItem,
    Ranking,
    StoredPersona,
)

# emoji=False: a text may hold ":book:" and mean it.
if TYPE_CHECKING:
    from indexer.audit.wording import Section
    from indexer.datasets.stats import DatasetStats
    from indexer.evaluation.evaluate import Evaluated, Evaluation
    from indexer.indexing.publish import Published
    from indexer.judging.figures import Judged, Share
    from indexer.llm import LLM, BatchProgress
    from indexer.reasoning.run import Estimate
    from indexer.reasoning.step import Step, StepReport
    from indexer.training.run import Trained
    from indexer.training.tune import Tuning
    from indexer.updates.add import Added
    from p4r_qdrant.index.versions import Version

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


class ProgressBar:
    """A bar for the current task on standard error, on a terminal only; a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task: TaskID | None = None

    def start(self, task: str, total: int | None = None) -> None:
        """Show a new bar in place of the one before."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(task, total=total)

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def print_refusals(refusals: Refusals) -> None:
    """Say on standard error what was refused, and how often for each reason."""
    for sentence in refusals.sentences:
        err.print(f"refused: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if refusals.total > len(refusals.sentences):
        err.print(f"... and {refusals.total - len(refusals.sentences)} more", highlight=False)
    if refusals.total:
        reasons = ", ".join(f"{count} {reason}" for reason, count in refusals.counts.most_common())
        err.print(f"refused in all: {reasons}", markup=False, highlight=False)


def print_counts(what: str, counts: Mapping[str, int], console: Console = out) -> None:
    """A line for each thing that was counted."""
    for name, count in counts.items():
        console.print(f"{what:>9}  {count:>7,}  {name}", markup=False, highlight=False)


def print_added(added: Added) -> None:
    """A line for an item that has been reasoned on."""
    what = f"{added.personas} personas from {added.reviews} reviews"
    state = "written" if added.written else "unchanged"
    line = added.problem or f"{what}, {state}"
    out.print(f"{added.item_id}  {line}", markup=False, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    """How many answers come in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class ReasoningProgress:
    """A bar a step with tokens, cost and failures, and the table at the end; a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[spent]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._current = ""
        self._llm: LLM | None = None
        self._reports: dict[str, StepReport] = {}
        self._batches: dict[str, BatchProgress] = {}

    def follow(self, llm: LLM | None) -> None:
        """Show what this LLM spends; None where none is asked."""
        self._llm = llm

    def estimated(self, step: Step, coming: Estimate) -> None:
        """Print what a step asks before it asks."""
        if coming.requests:
            tokens = coming.prompt_tokens + coming.completion_tokens
            since = f"; {_outdated(coming)}" if coming.outdated else ""
            under_way = f", {coming.under_way:,} under way" if coming.under_way else ""
            err.print(
                f"{step.name}: {coming.requests:,} to ask, {coming.known:,} known{under_way}, "
                f"about {tokens:,} tokens, {_dollars(coming.cost_usd)}{since}",
                highlight=False,
                soft_wrap=True,
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
        """How a batch stands now; a line where that is something new."""
        before = self._batches.get(batch.batch_id)
        self._batches[batch.batch_id] = batch
        if before is None or before.status != batch.status:
            err.print(_batch(batch), highlight=False, markup=False, soft_wrap=True)
        if batch.step in self._tasks:
            self._bars.update(self._tasks[batch.step], spent=self._spent(batch.step))

    def written(self, step: Step, report: StepReport) -> None:
        """Keep the report of a step for the table at the end."""
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
        under_way = [batch for batch in self._batches.values() if not batch.has_ended]
        for batch in under_way:
            out.print(_batch(batch), markup=False, highlight=False, soft_wrap=True)
        if under_way:
            out.print("what is under way goes on: run the same command again to collect it")

    def _spent(self, name: str) -> str:
        tally = self._llm.tallies.get(name) if self._llm else None
        if tally is None:
            return ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        mine = [one for one in self._batches.values() if one.step == name and not one.has_ended]
        there = f"{sum(one.answered for one in mine):,}/{sum(one.requests for one in mine):,}"
        batches = f", {there} in {len(mine)} batches" if mine else ""
        return f"{tally.usage.tokens:,} tokens, {_dollars(tally.usage.cost_usd)}{failed}{batches}"

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
    for name, one in estimates.items():
        if one.under_way:
            out.print(f"{name}: {one.under_way:,} more are under way in batches", highlight=False)
        if one.outdated:
            out.print(f"{name}: {_outdated(one)}", highlight=False)
    complete = all(one.complete for one in estimates.values())
    if not complete:
        out.print("?: counted once the steps before it have run", highlight=False)
    known = [one.cost_usd for one in estimates.values() if one.complete]
    if None not in known:
        total = sum(cost for cost in known if cost is not None)
        about = "about" if complete else "at least"
        out.print(f"in all {about} {_dollars(total)}; nothing was asked", highlight=False)


def _batch(batch: BatchProgress) -> str:
    failed = f", {batch.failed:,} failed" if batch.failed else ""
    counts = f"{batch.answered:,} of {batch.requests:,} answered{failed}"
    return f"{batch.step}: {batch.batch_id} {batch.status}, {counts}"


def _outdated(one: Estimate) -> str:
    return f"the template has changed since {one.outdated:,} answers were given"


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


def print_reasoned(folder: ArtifactFolder) -> None:
    """The personas of a small artifact folder, each with what its reviewers told."""
    told = {
        (one.item_id, one.user_id): "; ".join(text for text in one.aspects.values() if text)
        for _, _, one in read_lines(folder.file(ASPECTS), Aspects, Refusals())
    }
    with folder.items(Refusals()) as items, folder.summaries(Refusals()) as summaries:
        for _, _, found in read_lines(folder.file(PERSONAS), ItemPersonas, Refusals()):
            item, summary = items.get(found.item_id), summaries.get(found.item_id)
            out.print()
            out.print(Text(item.title if item else found.item_id, style="bold"))
            if summary:
                out.print(Text(summary.summary, style="dim"))
            for one in found.personas:
                evidence = [
                    Text(f"{user}: {told.get((found.item_id, user), '')}", style="dim")
                    for user in one.evidence
                ]
                rationale = Text(one.preference_rationale, style="italic")
                out.print(
                    Panel(
                        Group(Text(one.description), rationale, *evidence),
                        title=Text(one.name, style="bold cyan"),
                        title_align="left",
                    )
                )


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


def print_published(version: str, location: str, report: Published | None = None) -> None:
    """What `p4r publish` says; without a report, of a switch alone."""
    lines = []
    if report is not None:
        lines.append(
            f"{report.written} items written, {report.unchanged} unchanged, {report.removed} "
            f"removed, {report.refused} records refused"
        )
        if report.users:
            lines.append(f"{report.users} users of the service encoded")
        if report.kept_because:
            lines.append(report.kept_because)
    lines.append(f"live: {version}, {location}")
    if report is not None and report.previous:
        lines.append(f"before: {report.previous} (p4r publish --rollback switches back)")
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def print_dropped(dropped: Sequence[str], in_use: Sequence[str]) -> None:
    """What `p4r publish --drop-old` says."""
    what = ", ".join(dropped) or "nothing, there are no others than the live and the previous one"
    out.print(f"deleted: {what}", highlight=False, markup=False, soft_wrap=True)
    for name in in_use:
        out.print(f"in use, and kept: {name}", highlight=False, markup=False, soft_wrap=True)


def print_evaluation(found: Evaluation, name: str, against: str) -> None:
    """What `p4r evaluate` says: all users, then the segments, then what was odd."""
    everybody, *parts = found.parts
    compared = bool(everybody.differences)
    table = _metric_table(f"{everybody.users:,} users", name, against if compared else None)
    for metric in everybody.metrics:
        table.add_row(metric, *_metric_cells(everybody, metric))
    both = [one for one in (everybody.ceiling, everybody.against_ceiling) if one is not None]
    table.add_row("ceiling", *(f"{one:.4f}" for one in both), style="dim")
    out.print(table)
    if parts:
        table = _metric_table("NDCG@10", name, against if compared else None)
        for part in parts:
            label = f"{part.name} ({part.rule}): {part.users:,}"
            table.add_row(label, *_metric_cells(part, "NDCG@10"))
        out.print()
        out.print(table)
    out.print(
        "Means with 95 % bootstrap intervals. Ceiling: the share of users whose item is in the "
        "list\nat all; no reordering gets beyond it."
        + (" p: paired randomization test, Holm-corrected." if compared else ""),
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    for file, lists in ((name, found.lists), (against, found.against_lists)):
        if lists is not None:
            out.print(
                f"{file}: lists of {lists.shortest} to {lists.longest} entries",
                markup=False,
                highlight=False,
            )
            print_counts("", lists.notes)
    print_counts("", found.notes)


def _metric_table(first: str, name: str, against: str | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    table.add_column(escape(name), justify="right")
    if against is not None:
        table.add_column(escape(against), justify="right")
        table.add_column("difference", justify="right", no_wrap=True)
        table.add_column("p", justify="right")
    return table


def _metric_cells(part: Evaluated, metric: str) -> list[Text]:
    ours = part.metrics[metric]
    cells = [Text(f"{ours.mean:.4f} [{ours.low:.3f}, {ours.high:.3f}]")]
    if part.differences:
        gap, theirs = part.differences[metric], part.against[metric].mean
        relative = f" {gap.mean / theirs:+.0%}" if theirs else ""
        cells += [
            Text(f"{theirs:.4f}"),
            Text(f"{gap.mean:+.3f}{relative} [{gap.low:+.3f}, {gap.high:+.3f}]"),
            Text(f"{gap.p:.4f}", style="bold" if gap.p < 0.05 else ""),
        ]
    return cells


def print_judged(judged: Judged, folder: Path) -> None:
    """What `p4r judge` says: the controls, and what is preferred where they are passed."""
    out.print()
    table = _judged_table("control", "right", "p", "", "what is right")
    for one in judged.controls:
        verdict = Text("passed", "green") if one.passed else Text("failed", "bold red")
        right = f"{one.right} of {one.of}"
        table.add_row(one.name, right, f"{one.p:.4f}", verdict, one.meaning)
    for name in judged.not_possible:
        table.add_row(name, "", "", Text("not possible", "yellow"), "the artifacts hold too little")
    out.print(table)
    out.print(
        f"The same verdict in both orders: {_share(judged.consistent)}. "
        f"For the text that comes first, ties aside: {_share(judged.first)}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if judged.preferences:
        out.print()
        table = _judged_table("criterion", "won", "tied", "lost", "p (Holm)")
        for each in judged.preferences:
            p = Text(f"{each.p_holm:.4f}", "bold" if each.p_holm < 0.05 else "")
            tied = f"{each.tied / each.won.of:.1%}"
            won, lost = Text(_share(each.won)), Text(_share(each.lost))
            table.add_row(each.criterion, won, tied, lost, p)
        out.print(table)
        out.print(
            f"{judged.about['ours']} against {judged.about['against']}: "
            f"{judged.preferences[0].won.of:,} comparisons by {judged.model}.\nWon, lost: "
            "preferred in both orders, with 95 % Wilson intervals. p: two-sided sign test of wins "
            "against\nlosses, Holm-corrected.",
            style="dim",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    elif judged.passed:
        out.print("Nothing could be compared.")
    print_counts("", judged.left_out)
    if judged.unanswered:
        print_counts("", {"comparisons whose answer is missing: run it again": judged.unanswered})
    out.print(f"results: {folder}", highlight=False, markup=False, soft_wrap=True)


def _judged_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name)
    return table


def _share(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{share.count / share.of:.1%} [{share.low:.0%}, {share.high:.0%}]"


def print_experiment(results: Mapping[str, Any]) -> None:
    """The main table of an experiment, in short."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("generator", "order"):
        table.add_column(name)
    for name in ("NDCG@10", "vs. own", "p (Holm)"):
        table.add_column(name, justify="right")
    for row in results["main"]:
        one, gap = row["metrics"]["NDCG@10"], row.get("own")
        relative = gap and gap["relative"]
        table.add_row(
            f"{escape(row['generator'])}, {row['candidates']}",
            escape(row["line"]),
            Text(f"{one['mean']:.4f} [{one['low']:.3f}, {one['high']:.3f}]"),
            "" if relative is None else f"{relative:+.1%}",
            f"{gap['p_holm']:.3f}" if gap else "",
            style="dim" if row["encoder"] is None else "",
        )
    out.print(table)
    if results["leaking"]:
        out.print("[bold red]One line of this experiment leaks, on purpose.[/bold red]")
    for check in results["leaks"]:
        if check["vouched"]:
            out.print(Text(f"{check['vouched']}.", style="bold red"))


def print_stats(stats: IndexStats, versions: Sequence[Version] = (), live: str = "") -> None:
    """What `p4r status` says; `versions` are all there are, one of them `live`."""
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
        "version": live,
        "published": stats.metadata.published_at,
        "previous": stats.metadata.previous,
        "typical user": "noted, for a persona prior" if stats.metadata.typical_user else "",
        "others": ", ".join(one.name for one in versions if one.name != live),
        **stats.details,
    }
    adapter = stats.metadata.adapter
    if adapter and not Path(adapter).is_dir():
        rows["adapter"] = (
            f"{adapter} is not on this machine: users given as histories need it, or "
            "P4R_ENCODER__ADAPTER"
        )
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    out.print(table)


def print_audit(sections: Sequence[Section], sampled: str, leak: str) -> None:
    """What `p4r audit` says: a table a subject, and a leak before all else."""
    if leak:
        out.print(Panel(Text(leak), border_style="bold red"))
    for section in sections:
        out.print()
        out.print(Text(section.title, style="bold underline"))
        if not section.rows:
            out.print(Text(f"not there: {section.absent}", style="dim"))
            continue
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("figure", style="bold", ratio=3, overflow="fold")
        table.add_column("value", ratio=4, overflow="fold")
        table.add_column("good", no_wrap=True)
        table.add_column("what it means", ratio=5)
        for row in section.rows:
            style = "bold red" if row.alarm else ""
            texts = (row.name, row.value, _GOOD[row.good], row.meaning)
            table.add_row(*(Text(text) for text in texts), style=style)
        out.print(table)
    if sampled:
        out.print()
        out.print(Text(sampled, style="dim"))


_GOOD = {"low": "lower", "high": "higher", "none": "none", "": ""}


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
        f"{trained.adapter} {done} {record.examples:,} examples ({record.validation}); readers get "
        f"it by p4r publish --adapter {trained.adapter}",
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
