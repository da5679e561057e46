"""Run the steps in order: ask what the ledger does not hold, then write the artifact."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.opening import opened_lines
from indexer.artifacts.writing import written_bytes
from indexer.ledger import Ledger
from indexer.llm import BatchesUnderWay, Requests, estimate_tokens, given_up
from indexer.progress import SILENT, Progress
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.alignments import Alignments
from indexer.reasoning.answering import Answerer
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.failures import Failures
from indexer.reasoning.item_steps import item_steps
from indexer.reasoning.nearest_alignments import NearestAlignments
from indexer.reasoning.personas import Personas
from indexer.reasoning.questions import Questions
from indexer.reasoning.step import Sources, Step, StepReport
from indexer.reasoning.summaries import Summaries
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError, P4RError

STEPS: dict[str, type[Step]] = {
    one.name: one for one in (Summaries, ReviewAspects, Personas, Alignments)
}
"""Each after the steps whose artifacts it reads."""


class NoUsableAnswerError(P4RError):
    """An LLM has given no usable answer to any request of a step."""


def made(folder: Path) -> Path:
    """The folder, created if it is missing. Raises InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the artifact folder {folder} cannot be created: {error.strerror}"
        ) from None
    return folder


def gather(items: Path, reviews: Path, splits: Path | None, output: Path) -> ArtifactFolder:
    """Copy the sources into an artifact folder, created if it is missing.

    Each copy is atomic, and unpacked.
    Raises InputError if a source cannot be read or the folder cannot be created.
    """
    made(output)
    for source, name in ((items, ITEMS), (reviews, REVIEWS), (splits, SPLITS)):
        target = output / name
        if source is None:
            continue
        if not source.is_file():
            raise InputError(f"there is no file {source}")
        if is_copy(target, source):
            continue
        with opened_lines(source) as original, written_bytes(target) as copy:
            shutil.copyfileobj(original, copy)
    return ArtifactFolder(output)


def is_copy(target: Path, source: Path) -> bool:
    """Whether a file is the source itself or has the same content."""
    return target.is_file() and (
        target.samefile(source) or filecmp.cmp(target, source, shallow=False)
    )


def steps(
    names: Sequence[str],
    sources: Sources,
    refusals: Refusals,
    options: AlignmentOptions,
    encoder: Encoder | None = None,
    progress: Progress = SILENT,
) -> list[Step]:
    """The named steps, each after the steps whose artifacts it reads.

    Raises InputError for an unknown step, and for one that reads what is neither there nor made by
    another one.

    The `encoder` is needed for extractive steps, and for alignments by similarity, except to
    estimate them; each interaction that it encodes for these is one step of `progress`.
    """
    wanted = {name.strip() for name in names}
    if unknown := sorted(wanted - set(STEPS)):
        raise InputError(f"there is no step {unknown[0]!r}; steps are {', '.join(STEPS)}")

    def made(kind: type[Step]) -> Step:
        if kind is Alignments and options.strategy == "judge":
            return Alignments(sources, refusals, options)
        if kind is Alignments:
            return NearestAlignments(sources, refusals, options, encoder, progress)
        return kind(sources, refusals)

    if sources.extractive:
        assert encoder is not None  # noqa: S101 - for the type checker
        chosen = _extractive(wanted, sources, refusals, encoder, options.seed)
        chosen += [made(Alignments)] if Alignments.name in wanted else []
    else:
        chosen = [made(kind) for name, kind in STEPS.items() if name in wanted]
    coming = {step.artifact for step in chosen}
    for step in chosen:
        for name in step.reads:
            if name not in coming and not sources.folder.has(name):
                raise InputError(
                    f"the artifact folder {sources.folder.path} holds no {name}, which the step "
                    f"{step.name} reads: add {name.partition('.')[0]} to --steps"
                )
    return chosen


def _extractive(
    wanted: Collection[str], sources: Sources, refusals: Refusals, encoder: Encoder, seed: int
) -> list[Step]:
    """The wanted steps without an LLM. Raises InputError for aspects without personas."""
    if ReviewAspects.name in wanted and Personas.name not in wanted:
        raise InputError(
            "the extractive strategy makes aspects and personas together: add personas to --steps"
        )
    made = item_steps(sources, refusals, encoder, seed)
    return [step for step in (made.summaries, made.personas, made.aspects) if step.name in wanted]


class StepProgress(Progress, Protocol):
    """Progress of reasoning: each step is a task, and each answer is a step of that task."""

    def estimated(self, step: Step, estimate: Estimate) -> None:
        """A step begins; `estimate` says what it asks now."""

    def written(self, step: Step, report: StepReport) -> None:
        """A step has ended and its artifact is written."""


async def reason(
    steps: Sequence[Step],
    llm: Answerer | None,
    ledger: Ledger,
    progress: StepProgress,
) -> list[StepReport]:
    """Ask and write, step after step; return the report of each step.

    `llm` may be None if no step asks; an extractor answers extractive steps.

    Killed at any moment and run again, it asks only what is not answered yet. If a run stops
    (budget, refusal, endpoint down), the artifact of that step is written from the answers that
    there are, and the error is raised. BatchesUnderWay is raised in the same way, after the steps
    that do not read the artifact of the step under way. NoUsableAnswerError is raised after the
    first step without a usable answer: the steps after it are not asked.
    """
    price_factor, paid = (1.0, ()) if llm is None else (llm.price_factor, llm.under_way())
    repeat_failed = llm is None or llm.repeat_failed
    under_way: BatchesUnderWay | None = None
    reports: list[StepReport] = []
    for step in steps:
        if under_way is not None and step.reads:
            break
        questions = Questions(step)
        estimate = _estimate(questions, ledger, price_factor, paid, repeat_failed=repeat_failed)
        progress.estimated(step, estimate)
        progress.start(step.name, estimate.total if step.asks else None)
        failures, usable = Failures(), 0
        try:
            if llm is not None and step.asks:
                async with aclosing(llm.run(Requests(questions.requests))) as answers:
                    async for answer in answers:
                        progress.advance()
                        usable += answer.ok
                        if not answer.ok:
                            failures.add(answer)
        except BatchesUnderWay as error:
            under_way = error
        finally:
            ledger.sync()
            reports.append(step.write(ledger, questions))
            reports[-1].failures = failures
            progress.written(step, reports[-1])
        if step.needs_answers and failures.total and not usable and under_way is None:
            raise no_usable_answer(step, failures)
    if under_way is not None:
        raise under_way
    return reports


def no_usable_answer(step: Step, failures: Failures) -> NoUsableAnswerError:
    """The error for a step whose requests have all failed."""
    path = step.sources.folder.path / "ledger" / f"{step.name}.jsonl"
    return NoUsableAnswerError(
        f"{step.name}: none of {failures.total:,} requests has a usable answer, "
        f"{failures.sentence()}; {path} has what the model said: try another model or other "
        "settings, or --retry-failed"
    )


@dataclass
class Estimate:
    """What a step would ask now, and its cost.

    under_way: requests in batches; they are paid for.
    given_up: requests that failed for good in an earlier run, and are not asked again.
    outdated: answers in the ledger that are useless, since the template has changed.
    """

    requests: int = 0
    known: int = 0
    under_way: int = 0
    given_up: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    outdated: int = 0
    complete: bool = True
    """False if an artifact that the step reads is missing: then the counts are lower bounds."""

    @property
    def total(self) -> int:
        """Answers that the step needs."""
        return self.requests + self.known + self.under_way + self.given_up


def estimate(
    steps: Sequence[Step],
    ledger: Ledger,
    price_factor: float = 1.0,
    under_way: Collection[str] = (),
    *,
    repeat_failed: bool = True,
) -> dict[str, Estimate]:
    """The cost of each step, from the requests it would send; nothing is sent."""
    return {
        step.name: estimate_step(step, ledger, price_factor, under_way, repeat_failed=repeat_failed)
        for step in steps
    }


def estimate_step(
    step: Step,
    ledger: Ledger,
    price_factor: float = 1.0,
    under_way: Collection[str] = (),
    *,
    repeat_failed: bool = True,
) -> Estimate:
    """The cost of one step, at `price_factor` times the prices.

    `under_way`: keys of requests that are paid for and do not count.
    """
    return _estimate(Questions(step), ledger, price_factor, under_way, repeat_failed=repeat_failed)


def _estimate(
    questions: Questions,
    ledger: Ledger,
    price_factor: float,
    under_way: Collection[str],
    *,
    repeat_failed: bool,
) -> Estimate:
    step = questions.step
    if not step.asks:
        return Estimate(cost_usd=0.0)
    one = Estimate(complete=all(step.sources.folder.has(name) for name in step.reads))
    for request in questions.requests() if one.complete else ():
        if ledger.has(request.step, request.key):
            one.known += 1
            continue
        if request.key in under_way:
            one.under_way += 1
            continue
        if not repeat_failed and given_up(ledger, request, step.sources.llm):
            one.given_up += 1
            continue
        one.requests += 1
        if not step.sources.extractive:
            one.prompt_tokens += estimate_tokens(request.system) + estimate_tokens(request.user)
            one.completion_tokens += step.answer_tokens
    if step.sources.extractive:
        one.cost_usd = 0.0
        return one
    prices = step.sources.llm.of(step.name)
    cost = prices.cost(one.prompt_tokens, one.completion_tokens)
    one.cost_usd = None if cost is None else cost * price_factor
    if one.requests:
        current = set(step.versions.values())
        templates = (record.get("template") for record in ledger.entries(step.name) if record["ok"])
        one.outdated = sum(given not in (None, *current) for given in templates)
    return one
