"""Options that several commands share, and how commands end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from indexer.cli.outputs import Force
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


def _check_domain(name: str) -> str:
    from indexer.artifacts.index_rows import named_domain

    return named_domain(name)


Domain = Annotated[
    str,
    typer.Option(
        help="Stored with each persona: books, restaurants, products ...", callback=_check_domain
    ),
]
MadeArtifacts = Annotated[
    Path,
    typer.Option("--artifacts", metavar="DIR", help="The artifact folder; created if missing."),
]
PromptDomain = Annotated[
    str,
    typer.Option(
        "--domain",
        help="books, restaurants, products, or a folder with prompts of your own.",
        callback=_check_domain,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count requests, tokens and cost; ask nothing.")
]
InBatches = Annotated[
    bool,
    typer.Option("--batch", help="Use the Batch API: half the price, up to a day for a round."),
]
NoWait = Annotated[
    bool,
    typer.Option("--no-wait", help="Submit batches and exit; run it again to collect the answers."),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Ask again what has failed for good before, with the same settings.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
]


class JsonCommand(TyperCommand):
    """A command whose option --json takes a file, or nothing for standard output."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the "-" of standard output behind a --json without a value."""
        given = []
        for at, one in enumerate(args):
            given.append(one)
            following = args[at + 1] if at + 1 < len(args) else "--"
            if one == "--json" and following.startswith("-") and following != "-":
                given.append("-")
        return super().parse_args(ctx, given)


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="[FILE]", help="Write JSON to FILE; without one, to standard output."
    ),
]


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    from indexer.artifacts.writing import written_whole

    with written_whole(Path("-")) as write:
        write(json.dumps(value, ensure_ascii=False, indent=2))


def publish_folder(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    domain: str,
    refusals: Refusals,
    **options: Any,
) -> None:
    """Publish an artifact folder with a progress bar, and print the result.

    options: of `PublishOptions`; as_json: print what was compared as JSON, and nothing else.
    """
    from indexer.indexing.publish import PublishOptions
    from indexer.indexing.publish import publish as publish_artifacts
    from indexer.terminal.changes import print_changes, print_preview
    from indexer.terminal.index import print_published, print_too_long
    from indexer.terminal.progress import ProgressBar

    as_json = options.pop("as_json", False)
    with ProgressBar() as bar:
        report = publish_artifacts(
            folder,
            source,
            settings,
            PublishOptions(domain, **options),
            refusals,
            bar,
        )
    if as_json:
        changes = report.changes.to_json() if report.changes else None
        print_json({"version": report.version, "is_live": report.is_live, "changes": changes})
        return
    if report.changes is not None:
        print_changes(report.changes)
    if report.is_live:
        print_published(report.version, report.location, report)
    else:
        print_preview(report)
    print_too_long(source)


def exit_for(refusals: Refusals) -> None:
    """Print what was refused; exit with 2 if anything was."""
    from indexer.terminal.console import print_refusals

    print_refusals(refusals)
    if refusals.total:
        raise typer.Exit(2)


def artifact_sources(artifacts: Path, domain: str, settings: Settings) -> Sources:
    """The sources of the steps of an artifact folder, which is not made here."""
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.prompts import Domain
    from indexer.reasoning.step import Sources
    from p4r_qdrant.moderation import Rules

    return Sources(
        ArtifactFolder(artifacts, {}),
        Domain.load(domain),
        settings.llm,
        extractive=settings.reasoning.strategy == "extractive",
        rules=Rules.load(settings.reasoning.rules),
    )


def check_llm(sources: Sources, otherwise: str = "P4R_REASONING__STRATEGY=extractive") -> None:
    """Raise SettingsError if an LLM is needed and has no key; `otherwise` is what needs none."""
    from indexer.llm import check_key

    if not sources.extractive:
        check_key(sources.llm, f"without an LLM: {otherwise}")


@dataclass(frozen=True)
class Asking:
    """How an LLM is asked: the options that `p4r reason` and `p4r judge` share."""

    dry_run: DryRun = False
    batch: InBatches = False
    no_wait: NoWait = False
    retry_failed: RetryFailed = False
    force: Force = False

    def __post_init__(self) -> None:
        if self.no_wait and not self.batch:
            raise InputError("--no-wait needs --batch")

    def may_replace(self, folder: Path) -> bool:
        """Whether files in a folder of artifacts or results may be replaced: a run wrote them."""
        from indexer.ledger import LEDGER

        return self.force or (folder / LEDGER).is_dir()

    def price_factor(self, settings: Settings) -> float:
        """The price of an answer as a share of the settings' prices."""
        return settings.llm.batch_price_factor if self.batch else 1.0

    def llm(self, settings: Settings, ledger: Ledger, progress: ReasoningProgress) -> LLM:
        """The LLM of the settings: one call for each question, or batches."""
        from indexer.llm import LLM, BatchFolder, BatchLLM

        if self.batch:
            return BatchLLM(
                settings.llm,
                ledger,
                repeat_failed=self.retry_failed,
                wait=not self.no_wait,
                watch=progress.watch,
            )
        BatchFolder(ledger.folder).check_none("live calls would pay for them once more")
        return LLM(settings.llm, ledger, repeat_failed=self.retry_failed)
