"""`p4r reason` and `p4r add`: what an LLM writes, or what is quoted without one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.outputs import check_output, check_outputs
from indexer.cli.shared import (
    Asking,
    MadeArtifacts,
    PromptDomain,
    artifact_sources,
    check_llm,
    exit_for,
)
from indexer.cli.tenant_option import of_tenant

if TYPE_CHECKING:
    from indexer.reasoning.alignment_targets import Profile, Strategy
    from indexer.reasoning.answering import Answerer

group = typer.Typer()


@group.command(
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r reason "
    "--items items.jsonl --reviews reviews.jsonl --splits splits.jsonl --domain books "
    "--artifacts books --dry-run"
)
@grouped
def reason(
    items: Annotated[Path, typer.Option(metavar="FILE", help="items.jsonl")],
    reviews: Annotated[Path, typer.Option(metavar="FILE", help="reviews.jsonl")],
    artifacts: MadeArtifacts,
    asking: Asking,
    domain: PromptDomain = "products",
    splits: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Held-out interactions; they are never used."),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            help="One or more of summaries, aspects, personas, alignments, separated by commas.",
            show_default="all",
        ),
    ] = "summaries,aspects,personas,alignments",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    per_user: Annotated[int, typer.Option(min=1, help="Alignments for each user.")] = 3,
    profile: Annotated[
        str,
        typer.Option(
            help="What the LLM sees of a user: the interactions before the aligned one, or all "
            "others. What the encoder learns from is P4R_TRAINING__PROFILE."
        ),
    ] = "before",
    seed: Annotated[
        int,
        typer.Option(help="Random seed of the order of the options, and of extractive personas."),
    ] = 0,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="judge (an LLM does everything), similarity (alignments by the encoder; free) or "
            "extractive (no LLM at all: personas quote reviews; free), instead of "
            "P4R_REASONING__STRATEGY."
        ),
    ] = None,
) -> None:
    """Make summaries, aspects, personas and alignments from reviews.

    DIR/ledger keeps every answer: killed and run again, it goes on and pays for none twice. What
    has failed for good is not asked again with the same settings, unless with --retry-failed.

    With --batch the steps still wait for each other, and unusable answers are asked for in a next
    round: with --no-wait, run it until it no longer says that batches are under way. The first
    request of each step is a live call.
    """
    import asyncio

    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
    from indexer.ledger import LEDGER, Ledger
    from indexer.leftovers import undone_unless_paid
    from indexer.llm import BatchesUnderWay, BatchFolder
    from indexer.prompts import Domain
    from indexer.reasoning import run
    from indexer.reasoning.alignment_targets import AlignmentOptions
    from indexer.reasoning.inputs import check_inputs
    from indexer.reasoning.item_steps import extractor
    from indexer.reasoning.step import Sources
    from indexer.terminal.progress import loading
    from indexer.terminal.reasoning import ReasoningProgress, print_estimates
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.errors import InputError
    from p4r_qdrant.moderation import Rules
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    strategy = strategy or settings.reasoning.strategy
    extractive = strategy == "extractive"
    options = AlignmentOptions(
        per_user=per_user,
        profile=cast("Profile", profile),  # AlignmentOptions checks both texts
        strategy=cast("Strategy", strategy),
        seed=seed,
    )
    if asking.batch and extractive:
        raise InputError("--batch needs an LLM, and the extractive strategy has none: omit it")
    given = {ITEMS: items, REVIEWS: reviews} | ({SPLITS: splits} if splits is not None else {})
    folder = ArtifactFolder(artifacts, given)
    rules = Rules.load(settings.reasoning.rules)
    sources = Sources(folder, Domain.load(domain), settings.llm, limit, extractive, rules)
    names = [name.strip() for name in steps.split(",")]
    refusals, progress = Refusals(), ReasoningProgress()
    if folder.has(SPLITS):  # given, or there already
        given[SPLITS] = folder.at(SPLITS)
    with loading("the input"):
        check_inputs(given, refusals)
    exit_for(refusals)  # before anything is written or paid for
    may_replace = asking.may_replace(artifacts)
    for name, source in given.items():
        if not run.is_copy(artifacts / name, source):
            check_output(artifacts / name, given.values(), force=may_replace)
    encoder = None
    if extractive or (strategy == "similarity" and "alignments" in names and not asking.dry_run):
        with loading("the encoder"):  # now, not after hours of asking
            encoder = load_encoder(settings.encoder)
    chosen = run.steps(names, sources, refusals, options, encoder, progress)
    check_outputs(artifacts, [one.artifact for one in chosen], given.values(), force=may_replace)
    asks = any(step.asks for step in chosen)
    if asking.dry_run:
        with Ledger(artifacts / LEDGER, read_only=True) as ledger:
            waiting = BatchFolder(ledger.folder).waiting()
            price_factor = asking.price_factor(settings)
            print_estimates(
                run.estimate(
                    chosen, ledger, price_factor, waiting, repeat_failed=asking.retry_failed
                )
            )
        return
    if asks:
        check_llm(sources, "p4r reason --strategy extractive")

    async def go(ledger: Ledger) -> None:
        opened: AbstractAsyncContextManager[Answerer | None] = nullcontext()
        if asks and encoder is not None and extractive:
            opened = extractor(encoder, ledger)
        elif asks:
            opened = asking.llm(settings, ledger, progress)
        async with opened as llm:
            progress.follow(llm)
            await run.reason(chosen, llm, ledger, progress)

    with undone_unless_paid(artifacts):
        run.gather(items, reviews, splits, artifacts)
        with Ledger(artifacts / LEDGER) as ledger:
            try:
                with progress, suppress(BatchesUnderWay):
                    asyncio.run(go(ledger))
            finally:
                progress.print()
    exit_for(refusals)


@group.command(
    epilog="Example:  tail -f arrivals.log | P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r add "
    "--artifacts books --domain books"
)
@of_tenant
def add(
    artifacts: MadeArtifacts,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE]",
            help="JSON Lines; a line with a user_id is a review, another one an item.",
        ),
    ] = Path("-"),
    domain: PromptDomain = "products",
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep reading as FILE grows, until Ctrl-C.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds to wait for more reviews of an item before reasoning on it."
        ),
    ] = 1.0,
) -> None:
    """Reason on new items and reviews as they arrive, and update the index.

    Prints one line for each item. Killed and run again, it goes on and pays for nothing twice.
    """
    import asyncio

    from indexer.artifacts.journal import Journal
    from indexer.artifacts.lines import Refusals
    from indexer.indexing.fresh_version import FreshVersion
    from indexer.indexing.items import ItemIndexer
    from indexer.ledger import LEDGER, Ledger
    from indexer.llm import LLM, BatchFolder
    from indexer.reasoning.item_steps import extractor, item_steps
    from indexer.terminal.console import err
    from indexer.terminal.index import print_review, print_too_long
    from indexer.terminal.progress import loading
    from indexer.terminal.reasoning import print_added
    from indexer.terminal.tables import print_counts
    from indexer.updates.add import StreamingIndexer
    from indexer.updates.inbox import incoming
    from indexer.updates.item_reasoning import ItemReasoner
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.index.opening import open_index, open_versions
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    sources = artifact_sources(artifacts, domain, settings)
    check_llm(sources)
    lines = incoming(source, follow=follow)
    refusals = Refusals()
    with Ledger(artifacts / LEDGER) as ledger, Journal(sources.folder) as journal:
        BatchFolder(ledger.folder).check_none("live calls would pay for them once more")

        async def go() -> None:
            with loading("the encoder"):
                encoder = load_encoder(settings.encoder)
            opened: AbstractAsyncContextManager[Answerer] = (
                extractor(encoder, ledger) if sources.extractive else LLM(settings.llm, ledger)
            )
            async with opened as llm:
                with (
                    open_versions(settings) as versions,
                    FreshVersion(versions) as fresh,
                    open_index(settings, encoder=encoder, create=True) as index,
                ):
                    fresh.is_ours = True
                    steps = item_steps(sources, refusals, encoder)
                    reasoner = ItemReasoner(sources, journal, ledger, llm, steps, index)
                    indexer = StreamingIndexer(
                        reasoner,
                        ItemIndexer(encoder, index, refusals, provisional=True),
                        settle_s=settle,
                        reported=print_added,
                    )
                    try:
                        await indexer.run(lines)
                    finally:
                        print_review(reasoner.screening.sentences_on_withheld())
                        print_too_long(encoder)
                        if indexer.lost_alignments:
                            lost = {"alignments: their personas changed": indexer.lost_alignments}
                            print_counts("left out", lost, err)

        asyncio.run(go())
    exit_for(refusals)
