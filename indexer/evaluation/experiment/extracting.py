"""Extractive artifacts of the catalogue of an experiment: personas without an LLM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.ledger import LEDGER, Ledger
from indexer.progress import Progress
from indexer.prompts import GENERIC, Domain
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.alignments import Alignments
from indexer.reasoning.item_steps import extractor
from indexer.reasoning.run import Estimate, gather, reason, steps
from indexer.reasoning.step import Sources, Step, StepReport
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings

STEPS = ("summaries", "personas", "aspects")


def extracted(
    source: ArtifactFolder,
    domain: str,
    folder: Path,
    encoder: Encoder,
    progress: Progress,
    *,
    aligned: bool = False,
) -> Path:
    """Make extractive artifacts of items and training reviews in `folder`, and return it.

    aligned: also make alignments, by similarity, with the defaults of `p4r reason`. What else is
    made already is not made again. Raises InputError if the source lacks items, reviews or splits.
    """
    gather(source.file(ITEMS), source.file(REVIEWS), source.file(SPLITS), folder)
    sources = Sources(ArtifactFolder(folder), _prompts(domain), LLMSettings(), extractive=True)
    names = [*STEPS, Alignments.name] if aligned else STEPS
    options = AlignmentOptions(strategy="extractive")
    made = steps(names, sources, Refusals(), options, encoder, progress)
    with Ledger(folder / LEDGER) as ledger:
        asyncio.run(_reason(made, encoder, ledger, progress))
    return folder


async def _reason(
    made: Sequence[Step], encoder: Encoder, ledger: Ledger, progress: Progress
) -> None:
    async with extractor(encoder, ledger) as answerer:
        await reason(made, answerer, ledger, _Steps(progress))


def _prompts(domain: str) -> Domain:
    """The domain whose slots the aspects have; the generic one for a name without a folder."""
    try:
        return Domain.load(domain)
    except InputError:
        return Domain.load(GENERIC)


class _Steps:
    """Progress of an experiment that shows the steps of reasoning."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, task: str, total: int | None = None) -> None:
        self._progress.start(f"extracting {task}", total)

    def advance(self, count: int = 1) -> None:
        self._progress.advance(count)

    def estimated(self, step: Step, estimate: Estimate) -> None:
        """Everything is free."""

    def written(self, step: Step, report: StepReport) -> None:
        """The experiment shows what it scores."""
