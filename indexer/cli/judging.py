"""`p4r judge explanations` and `p4r judge personas`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.outputs import check_outputs
from indexer.cli.shared import (
    Artifacts,
    Asking,
    PromptDomain,
    artifact_sources,
    exit_for,
)

if TYPE_CHECKING:
    from indexer.artifacts.lines import Refusals
    from indexer.judging.comparing import Study
    from indexer.judging.figures import Judged
    from p4r_qdrant.settings import Settings

group = typer.Typer()
judges = typer.Typer(
    help="Compare explanations or personas with an LLM as judge.",
    no_args_is_help=True,
)
group.add_typer(judges, name="judge")

Results = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of results; created if missing.")
]


@dataclass(frozen=True)
class Sampled:
    """What is judged, and where results go."""

    artifacts: Artifacts
    output: Results
    domain: PromptDomain = "products"
    sample: Annotated[int, typer.Option(min=1, help="Comparisons, a random sample.")] = 100
    controls: Annotated[
        int, typer.Option(min=5, help="Comparisons for each control, whose outcome is known.")
    ] = 30
    seed: Annotated[int, typer.Option(help="Random seed of the sample.")] = 0


@judges.command(
    "explanations",
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r judge explanations "
    "--artifacts books --explanations reranked.jsonl --domain books --output judged --dry-run",
)
@grouped
def judge_explanations(
    sampled: Sampled,
    asking: Asking,
    explanations: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Ours: the output of p4r rerank, or lines of user_id, item_id and explanation.",
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Others, in the same form; default: the summaries of the items."
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Take an item among a reader's first so many.")
    ] = 5,
) -> None:
    """Let an LLM compare two explanations of an item.

    It compares on five criteria, in both orders.

    The LLM must first pass controls whose outcome is known. If it fails, it is asked no more, no
    win rate is given, and the exit code is 1. Killed and run again, it goes on and pays for none
    twice.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.judging.explanations import ExplanationSampling, ExplanationStudy
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    refusals = Refusals()
    study = ExplanationStudy(
        ArtifactFolder(sampled.artifacts),
        explanations,
        against,
        refusals,
        ExplanationSampling(sampled.sample, sampled.controls, sampled.seed, top),
        length=settings.history.length,
    )
    _judge(study, sampled, settings, refusals, asking)


@judges.command(
    "personas",
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r judge personas "
    "--artifacts examples/bookshop --domain books --output judged-personas --dry-run",
)
@grouped
def judge_personas(
    sampled: Sampled,
    asking: Asking,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Another personas.jsonl; default: a single persona that the LLM writes.",
        ),
    ] = None,
) -> None:
    """Let an LLM compare the personas of an item with a single one.

    It compares on five criteria, in both orders.

    The LLM must first pass controls whose outcome is known. If it fails, it is asked no more, no
    win rate is given, and the exit code is 1. Killed and run again, it goes on and pays for none
    twice.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.judging.comparing import Sampling
    from indexer.judging.personas import PersonaStudy
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    refusals = Refusals()
    study = PersonaStudy(
        ArtifactFolder(sampled.artifacts),
        against,
        sampled.output,
        refusals,
        Sampling(sampled.sample, sampled.controls, sampled.seed),
    )
    _judge(study, sampled, settings, refusals, asking)


def _judge(
    study: Study,
    sampled: Sampled,
    settings: Settings,
    refusals: Refusals,
    asking: Asking,
) -> None:
    """Run a study and print its result; fail if the judge fails its controls."""
    import asyncio

    from indexer.artifacts.derived import noted
    from indexer.judging.run import Run, unfit
    from indexer.ledger import LEDGER, Ledger
    from indexer.leftovers import undone_unless_paid
    from indexer.llm import BatchesUnderWay, BatchFolder, check_key
    from indexer.terminal.console import print_refusals
    from indexer.terminal.judging import print_judged
    from indexer.terminal.reasoning import ReasoningProgress, print_estimates
    from p4r_qdrant.errors import P4RError

    output = sampled.output
    sources = artifact_sources(output, sampled.domain, settings)
    progress = ReasoningProgress()
    found: Judged | None = None

    async def go(run: Run, ledger: Ledger) -> Judged:
        async with asking.llm(settings, ledger, progress) as llm:
            progress.follow(llm)
            return await run.judge(llm, ledger, progress)

    with study:
        run = Run(study, sources, refusals)
        check_outputs(output, run.writes, (), force=asking.may_replace(output))
        if asking.dry_run:
            with Ledger(output / LEDGER, read_only=True) as ledger:
                waiting = BatchFolder(ledger.folder).waiting()
                price_factor, again = asking.price_factor(settings), asking.retry_failed
                print_estimates(run.estimate(ledger, price_factor, waiting, repeat_failed=again))
            return
        check_key(settings.llm)
        with (
            noted(sampled.artifacts, output),
            undone_unless_paid(output),
            Ledger(output / LEDGER) as ledger,
        ):
            try:
                with progress, suppress(BatchesUnderWay):
                    found = asyncio.run(go(run, ledger))
            finally:
                progress.print()
    if found is not None:
        print_judged(found, output)
        if not found.passed:
            print_refusals(refusals)
            raise unfit(found, output)
        if found.unanswered and not found.preferences:
            raise P4RError(
                f"none of {found.unanswered:,} comparisons has a usable answer: ask another model "
                "with P4R_LLM__JUDGMENTS__MODEL"
            )
    exit_for(refusals)
