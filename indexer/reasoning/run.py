"""The steps in order: ask what the ledger does not know, then write the artifact."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.writing import written_bytes
from indexer.ledger import Ledger
from indexer.llm import LLM, BatchesUnderWay, Requests, estimate_tokens
from indexer.progress import SILENT, Progress
from indexer.reasoning.alignments import Alignments, NearestAlignments
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.personas import Personas
from indexer.reasoning.questions import Questions
from indexer.reasoning.step import Sources, Step, StepReport
from indexer.reasoning.summaries import Summaries
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError

STEPS: dict[str, type[Step]] = {
    one.name: one for one in (Summaries, ReviewAspects, Personas, Alignments)
}
"""In the order they build on each other."""

STRATEGIES = ("judge", "similarity")


def made(folder: Path) -> Path:
    """The folder, made if it is not there. Raises InputError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the artifact folder {folder} cannot be made: {error.strerror}") from None
    return folder


def gather(items: Path, reviews: Path, splits: Path | None, output: Path) -> ArtifactFolder:
    """Copy the sources into an artifact folder, made if it is not there: each whole, or not at all.

    Raises InputError where a source cannot be read or the folder not be made.
    """
    made(output)
    for source, name in ((items, ITEMS), (reviews, REVIEWS), (splits, SPLITS)):
        target = output / name
        if source is None:
            continue
        if not source.is_file():
            raise InputError(f"there is no file {source}")
        if target.exists() and target.samefile(source):
            continue
        with source.open("rb") as original, written_bytes(target) as copy:
            shutil.copyfileobj(original, copy)
    return ArtifactFolder(output)


def steps(
    names: Sequence[str],
    sources: Sources,
    refusals: Refusals,
    *,
    per_user: int,
    profile: str,
    seed: int,
    strategy: str = "judge",
    encoder: Encoder | None = None,
    progress: Progress = SILENT,
) -> list[Step]:
    """The named steps in the order they build on each other. Raises InputError.

    `strategy` of alignments: an LLM as `judge`, or `similarity` by the `encoder`, which a mere
    estimate does without; each
    interaction that is encoded is one step of `progress`.
    """
    wanted = {name.strip() for name in names}
    unknown = sorted(wanted - set(STEPS))
    if unknown or profile not in ("before", "others"):
        what = f"step {unknown[0]!r}" if unknown else f"profile {profile!r}"
        raise InputError(
            f"there is no {what}; steps are {', '.join(STEPS)}, profiles before and others"
        )
    if strategy not in STRATEGIES:
        raise InputError(f"there is no strategy {strategy!r}; say {' or '.join(STRATEGIES)}")
    more: dict[str, Any] = {"per_user": per_user, "profile": profile}

    def made(kind: type[Step]) -> Step:
        if kind is not Alignments:
            return kind(sources, refusals)
        if strategy == "similarity":
            return NearestAlignments(sources, refusals, encoder, progress, **more)
        return Alignments(sources, refusals, seed=seed, **more)

    return [made(kind) for name, kind in STEPS.items() if name in wanted]


class StepProgress(Progress, Protocol):
    """Progress of reasoning: each step is a task, and each answer is a step of that task."""

    def estimated(self, step: Step, estimate: Estimate) -> None:
        """A step begins; `estimate` says what it asks now."""

    def written(self, step: Step, report: StepReport) -> None:
        """A step has ended and its artifact is written."""


async def reason(
    steps: Sequence[Step],
    llm: LLM | None,
    ledger: Ledger,
    progress: StepProgress,
) -> list[StepReport]:
    """Ask and write, step after step; return the report of each step.

    `llm` may be None where no step asks.

    Killed at any moment and run again, it asks only what was not answered. Where a run stops
    (budget, refusal, endpoint down), the artifact of that step is written from the answers there
    are, and the error is raised. So it is with BatchesUnderWay, after the steps that read nothing
    of the one whose batches are under way.
    """
    price_factor, paid = (1.0, ()) if llm is None else (llm.price_factor, llm.under_way())
    under_way: BatchesUnderWay | None = None
    reports: list[StepReport] = []
    for step in steps:
        if under_way is not None and step.reads:
            break
        questions = Questions(step)
        estimate = _estimate(questions, ledger, price_factor, paid)
        progress.estimated(step, estimate)
        progress.start(step.name, estimate.total if step.asks else None)
        try:
            if llm is not None and step.asks:
                async with aclosing(llm.run(Requests(questions.requests))) as answers:
                    async for _ in answers:
                        progress.advance()
        except BatchesUnderWay as error:
            under_way = error
        finally:
            ledger.sync()
            reports.append(step.write(ledger, questions))
            progress.written(step, reports[-1])
    if under_way is not None:
        raise under_way
    return reports


@dataclass
class Estimate:
    """What a step would ask now, and what that would take.

    What is `under_way` in batches is paid for. `outdated` answers are in the ledger and of no use
    any more: the template has changed since.
    """

    requests: int = 0
    known: int = 0
    under_way: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    outdated: int = 0
    complete: bool = True
    """False where an artifact that the step reads is not there yet: then it is a lower bound."""

    @property
    def total(self) -> int:
        """Answers that the step needs."""
        return self.requests + self.known + self.under_way


def estimate(
    steps: Sequence[Step],
    ledger: Ledger,
    price_factor: float = 1.0,
    under_way: Collection[str] = (),
) -> dict[str, Estimate]:
    """What each step would cost, from the very requests it would send; nothing is sent."""
    return {step.name: estimate_step(step, ledger, price_factor, under_way) for step in steps}


def estimate_step(
    step: Step, ledger: Ledger, price_factor: float = 1.0, under_way: Collection[str] = ()
) -> Estimate:
    """What one step would cost, at this part of the prices; what is under way by key aside."""
    return _estimate(Questions(step), ledger, price_factor, under_way)


def _estimate(
    questions: Questions, ledger: Ledger, price_factor: float, under_way: Collection[str]
) -> Estimate:
    step = questions.step
    if not step.asks:
        return Estimate(cost_usd=0.0)
    one = Estimate(complete=all(step.sources.folder.has(name) for name in step.reads))
    for request in questions.requests() if one.complete else ():
        if ledger.has(step.name, request.key):
            one.known += 1
            continue
        if request.key in under_way:
            one.under_way += 1
            continue
        one.requests += 1
        one.prompt_tokens += estimate_tokens(request.system) + estimate_tokens(request.user)
        one.completion_tokens += step.answer_tokens
    prices = step.sources.llm.of(step.name)
    cost = prices.cost(one.prompt_tokens, one.completion_tokens)
    one.cost_usd = None if cost is None else cost * price_factor
    if one.requests:
        current = set(step.versions.values())
        given = (record for record in ledger.entries(step.name) if record["ok"])
        one.outdated = sum(record.get("template") not in current for record in given)
    return one
