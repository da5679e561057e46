"""`p4r peers rate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.outputs import RATED, Force, check_output
from indexer.cli.peers.answering import answering
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import AdapterOption, LocalModelOption, Results, Set, peer_options
from indexer.cli.shared import DryRun, PromptDomain, RetryFailed, exit_for

if TYPE_CHECKING:
    from indexer.peers.rating_study import RatingRow


@peers.command(
    epilog="Example:  p4r peers rate --ratings ratings.jsonl --interactions interactions.jsonl "
    "--output rated --trivial"
)
def rate(
    ratings: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Rated pairs with averages, profiles and descriptions (EXP3RT's student input).",
        ),
    ],
    interactions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="user_id, item_id and split of all pairs; ratings not needed."
        ),
    ],
    output: Results,
    domain: PromptDomain = "products",
    profile: Annotated[
        str, typer.Option(help="The item's profile in prompts: helpful or similar.")
    ] = "helpful",
    sample: Annotated[
        int | None, typer.Option(min=10, help="A random sample of pairs; all lines use it.")
    ] = None,
    trivial: Annotated[
        bool, typer.Option("--trivial", help="Only the predictors that need no LLM.")
    ] = False,
    local: LocalModelOption = None,
    adapter: AdapterOption = None,
    options: Set = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    force: Force = False,
) -> None:
    """Predict ratings: RMSE and MAE of an LLM without training, and of trivial predictors.

    The LLM is asked without and with the averages, which include test ratings in EXP3RT's data. Its
    rating is the expected value of the digits' probabilities. The scale is 1 to 10 unless --set
    says otherwise. Killed and run again, it goes on and pays for no answer twice. A local model
    needs --set reasoning=false.
    """
    import asyncio
    from dataclasses import asdict

    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.ledger import LEDGER, Ledger
    from indexer.leftovers import undone_unless_paid
    from indexer.peers.asking import RequestMaker
    from indexer.peers.rating_records import item_profile, read_ratings, read_trained
    from indexer.peers.rating_study import STEP, RatingStudy, sampled
    from indexer.peers.running import DryRun as Counting
    from indexer.peers.scale import RatingScale
    from indexer.peers.trivial_ratings import TrivialPredictors
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_ratings
    from indexer.terminal.reasoning import ReasoningProgress, print_estimates

    refusals = Refusals()
    chosen = peer_options(options, highest=10.0)
    target = output / "ratings.json"
    check_output(target, [ratings, interactions], force=force, ours=RATED)
    pairs = read_ratings(ratings, refusals)
    scale = RatingScale(chosen.lowest, chosen.highest)
    who = answering(local, adapter)
    study = RatingStudy(
        pairs,
        sampled(len(pairs), sample),
        TrivialPredictors(pairs, read_trained(interactions, refusals), scale),
        chosen,
        item_profile(profile),
        RequestMaker(STEP, Domain.load(domain), who.llm),
    )
    if dry_run:
        with Ledger(output / LEDGER, read_only=True) as ledger:
            counting = Counting(who.llm, ledger, repeat_failed=retry_failed)
            asyncio.run(study.asked_rows(counting))
        print_estimates(counting.estimates)
        exit_for(refusals)
        return
    rows = study.trivial_rows()
    if not trivial:
        who.check_key()
        progress = ReasoningProgress()

        async def go(ledger: Ledger) -> list[RatingRow]:
            async with who.asker(ledger, progress, retry_failed=retry_failed) as ask:
                progress.start(STEP, 2 * len(study.members))
                return await study.asked_rows(ask, progress.advance)

        with undone_unless_paid(output), Ledger(output / LEDGER) as ledger, progress:
            rows += asyncio.run(go(ledger))
    output.mkdir(parents=True, exist_ok=True)
    found = {"rated_pairs": len(study.members), "rows": [asdict(one) for one in rows]}
    with written_whole(target) as write:
        write(json.dumps(found, ensure_ascii=False, indent=2))
    print_ratings(rows)
    out.say(f"written: {target}")
    exit_for(refusals)
