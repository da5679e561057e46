"""What several commands share: options, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.indexing.items import Source
    from indexer.ledger import Ledger
    from indexer.llm import LLM
    from indexer.reasoning.step import Sources
    from indexer.terminal.reasoning import ReasoningProgress
    from p4r_qdrant.settings import Settings

Artifacts = Annotated[
    Path, typer.Option("--artifacts", metavar="DIR", help="The catalogue's artifact folder.")
]
Domain = Annotated[
    str, typer.Option(help="Stored with each persona: books, restaurants, products ...")
]
MadeArtifacts = Annotated[
    Path,
    typer.Option(
        "--artifacts", metavar="DIR", help="The artifact folder, made if it is not there."
    ),
]
PromptDomain = Annotated[
    str, typer.Option("--domain", help="books, restaurants, products, or the folder of your own.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count requests, tokens and cost; ask nothing.")
]
InBatches = Annotated[
    bool,
    typer.Option("--batch", help="Through the Batch API: half the price, within a day a round."),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Submit batches and leave; run it again to collect.")
]


def publish_folder(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    domain: str,
    refusals: Refusals,
    **options: bool,
) -> None:
    """Publish an artifact folder, with a progress bar, and say what came of it."""
    from indexer.indexing.publish import PublishOptions
    from indexer.indexing.publish import publish as publish_artifacts
    from indexer.terminal.index import print_published
    from indexer.terminal.progress import ProgressBar

    with ProgressBar() as bar:
        report = publish_artifacts(
            folder,
            source,
            settings,
            PublishOptions(domain, **options),
            refusals,
            bar,
        )
    print_published(report.version, report.location, report)


def exit_for(refusals: Refusals) -> None:
    """Say what was refused; some input has to be put right, and the exit code says so."""
    from indexer.terminal.console import print_refusals

    print_refusals(refusals)
    if refusals.total:
        raise typer.Exit(2)


def llm_sources(artifacts: Path, domain: str, settings: Settings) -> Sources:
    """What the LLM steps of an artifact folder are asked with."""
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.prompts import Domain
    from indexer.reasoning.run import made
    from indexer.reasoning.step import Sources

    return Sources(ArtifactFolder(made(artifacts)), Domain.load(domain), settings.llm)


def llm_of(
    settings: Settings, ledger: Ledger, progress: ReasoningProgress, *, batch: bool, no_wait: bool
) -> LLM:
    """Whom to ask: with a call each, or in batches."""
    from indexer.llm import LLM, BatchFolder, BatchLLM

    if batch:
        return BatchLLM(settings.llm, ledger, wait=not no_wait, watch=progress.watch)
    if no_wait:
        raise InputError("--no-wait is for --batch alone")
    BatchFolder(ledger.folder).check_none("live calls would pay for them once more")
    return LLM(settings.llm, ledger)
