"""`p4r peers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.cli.outputs import BENCH, RATED, Force, check_output
from indexer.cli.shared import Artifacts, DryRun, PromptDomain, RetryFailed, exit_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.peers.options import PeerOptions
    from indexer.peers.protocol import PeerAnswer
    from indexer.peers.rating_study import RatingRow

group = typer.Typer()
peers = typer.Typer(
    help="Run the LLM rerankers that personas are compared with.",
    no_args_is_help=True,
)
group.add_typer(peers, name="peers", rich_help_panel="Evaluate")

Results = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of results; created if missing.")
]
Name = Annotated[
    str, typer.Option("--peer", help="listwise, letters, pointwise, rated or explained.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the peer, such as words=100; repeatable."
    ),
]


@peers.command(
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r peers rank --peer listwise "
    "--artifacts examples/bookshop --candidates examples/bookshop/candidates.jsonl "
    "--domain books --output ranked --dry-run"
)
def rank(
    artifacts: Artifacts,
    candidates: Annotated[Path, typer.Option(metavar="FILE", help="Candidate lists, best first.")],
    output: Results,
    peer: Name = "listwise",
    domain: PromptDomain = "products",
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many lists.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many candidates of a list.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many places need to be right; fewer calls."),
    ] = None,
    options: Set = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    force: Force = False,
) -> None:
    """Order candidate lists by an LLM, as ZS-LLM, LlamaRec, TALLRec, EXP3RT or XRec do.

    Histories are without what splits.jsonl holds out. The output is a candidates file for
    `p4r evaluate`. Killed and run again, it goes on and pays for no answer twice.
    """
    import asyncio

    from indexer.artifacts.candidate_lists import read_candidates
    from indexer.artifacts.derived import noted
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.ledger import LEDGER, Ledger
    from indexer.leftovers import undone_unless_paid
    from indexer.llm import LLM, check_key
    from indexer.peers import registry
    from indexer.peers.asking import PeerSources
    from indexer.peers.lists import queries
    from indexer.peers.material import Material
    from indexer.peers.results import Totals, line
    from indexer.peers.running import DryRun as Counting
    from indexer.peers.running import asker, rank_all
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_totals
    from indexer.terminal.reasoning import ReasoningProgress, print_estimates
    from p4r_qdrant.errors import InputError
    from p4r_qdrant.settings import Settings

    settings, refusals = Settings.load(), Refusals()
    chosen = _options(options)
    target = output / f"{peer}.jsonl"
    check_output(target, [candidates], force=force or (output / LEDGER).is_dir())
    with Material(ArtifactFolder(artifacts), refusals) as material:
        sources = PeerSources(Domain.load(domain), settings.llm, chosen, material)
        made = registry.made(peer, sources)
        lists = read_candidates(candidates, refusals)
        wanted = list(queries(material, lists, users=users, depth=depth, top=top))
        if not wanted:
            raise InputError(f"{candidates} holds no list of candidates")
        if dry_run:
            with Ledger(output / LEDGER, read_only=True) as ledger:
                counting = Counting(settings.llm, ledger, repeat_failed=retry_failed)
                asyncio.run(rank_all(made, wanted, counting))
            print_estimates(counting.estimates)
            exit_for(refusals)
            return
        check_key(settings.llm)
        progress = ReasoningProgress()

        async def go(ledger: Ledger) -> Sequence[PeerAnswer]:
            async with LLM(settings.llm, ledger, repeat_failed=retry_failed) as llm:
                progress.follow(llm)
                progress.start(made.step, len(wanted))
                return await rank_all(made, wanted, asker(llm), progress.advance)

        with (
            noted(artifacts, output),
            undone_unless_paid(output),
            Ledger(output / LEDGER) as ledger,
            progress,
        ):
            answers = asyncio.run(go(ledger))
        with written_whole(target, private=True) as write:
            for query, answer in zip(wanted, answers, strict=True):
                write(json.dumps(line(query, answer), ensure_ascii=False))
    print_totals([Totals.of(peer, answers)])
    out.say(f"rankings: {target}")
    exit_for(refusals)


Peers = Annotated[
    str, typer.Option("--peers", help="Names with commas: listwise,letters,pointwise,rated.")
]


@peers.command(
    epilog="Example:  p4r peers bench --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl --domain books --depths 5,10 --users 1,10 "
    "--local --output bench"
)
def bench(
    artifacts: Artifacts,
    candidates: Annotated[Path, typer.Option(metavar="FILE", help="Candidate lists, best first.")],
    output: Results,
    names: Peers = "listwise,letters,pointwise,rated",
    domain: PromptDomain = "products",
    users: Annotated[str, typer.Option(help="Users at the same time, with commas.")] = "1,10,100",
    depths: Annotated[str, typer.Option(help="Candidates of a user, with commas.")] = "20,50,100",
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Time for all peers; the other cells are extrapolated.")
    ] = 8.0,
    local: Annotated[
        bool, typer.Option("--local", help="Ask the small LLM of `p4r local-llm`, started here.")
    ] = False,
    options: Set = None,
    force: Force = False,
) -> None:
    """Measure latency, calls, tokens, cost and memory of LLM rerankers and of personas.

    Calls are not answered by a ledger: it pays for them. Personas are indexed in a temporary folder
    and stand beside, with their offline cost and the number of requests that earn it back.
    """
    from dataclasses import asdict

    from indexer.artifacts.writing import written_whole
    from indexer.peers.bench import BenchPlan
    from indexer.peers.bench_run import BenchRequest, measured
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_bench
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.settings import Settings

    target = output / "bench.json"
    check_output(target, [candidates], force=force, ours=BENCH)
    plan = BenchPlan(_numbers("--users", users), _numbers("--depths", depths), 60 * minutes)
    wanted = BenchRequest(artifacts, candidates, domain, _names(names), _options(options), plan)
    with ProgressBar() as bar:
        found = measured(wanted, Settings.load(), bar, local=local)
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as write:
        write(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    print_bench(found)
    out.say(f"written: {target}")


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
    options: Set = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    force: Force = False,
) -> None:
    """Predict ratings: RMSE and MAE of an LLM without training, and of trivial predictors.

    The LLM is asked without and with the averages, which include test ratings in EXP3RT's data. Its
    rating is the expected value of the digits' probabilities. The scale is 1 to 10 unless --set
    says otherwise. Killed and run again, it goes on and pays for no answer twice.
    """
    import asyncio
    from dataclasses import asdict

    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.ledger import LEDGER, Ledger
    from indexer.leftovers import undone_unless_paid
    from indexer.llm import LLM, check_key
    from indexer.peers.asking import RequestMaker
    from indexer.peers.rating_records import item_profile, read_ratings, read_trained
    from indexer.peers.rating_study import STEP, RatingStudy, sampled
    from indexer.peers.running import DryRun as Counting
    from indexer.peers.running import asker
    from indexer.peers.scale import RatingScale
    from indexer.peers.trivial_ratings import TrivialPredictors
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_ratings
    from indexer.terminal.reasoning import ReasoningProgress, print_estimates
    from p4r_qdrant.settings import Settings

    settings, refusals = Settings.load(), Refusals()
    chosen = _options(options, highest=10.0)
    target = output / "ratings.json"
    check_output(target, [ratings, interactions], force=force, ours=RATED)
    pairs = read_ratings(ratings, refusals)
    scale = RatingScale(chosen.lowest, chosen.highest)
    study = RatingStudy(
        pairs,
        sampled(len(pairs), sample),
        TrivialPredictors(pairs, read_trained(interactions, refusals), scale),
        chosen,
        item_profile(profile),
        RequestMaker(STEP, Domain.load(domain), settings.llm),
    )
    if dry_run:
        with Ledger(output / LEDGER, read_only=True) as ledger:
            counting = Counting(settings.llm, ledger, repeat_failed=retry_failed)
            asyncio.run(study.asked_rows(counting))
        print_estimates(counting.estimates)
        exit_for(refusals)
        return
    rows = study.trivial_rows()
    if not trivial:
        check_key(settings.llm)
        progress = ReasoningProgress()

        async def go(ledger: Ledger) -> list[RatingRow]:
            async with LLM(settings.llm, ledger, repeat_failed=retry_failed) as llm:
                progress.follow(llm)
                progress.start(STEP, 2 * len(study.members))
                return await study.asked_rows(asker(llm), progress.advance)

        with undone_unless_paid(output), Ledger(output / LEDGER) as ledger, progress:
            rows += asyncio.run(go(ledger))
    output.mkdir(parents=True, exist_ok=True)
    found = {"rated_pairs": len(study.members), "rows": [asdict(one) for one in rows]}
    with written_whole(target) as write:
        write(json.dumps(found, ensure_ascii=False, indent=2))
    print_ratings(rows)
    out.say(f"written: {target}")
    exit_for(refusals)


def _numbers(option: str, given: str) -> list[int]:
    """Numbers with commas, sorted. Raises InputError."""
    from p4r_qdrant.errors import InputError

    try:
        found = sorted({int(one) for one in given.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise InputError(f"{option} needs whole numbers with commas, such as 1,10; not {given!r}")
    return found


def _names(given: str) -> list[str]:
    """Peers by name. Raises InputError for an unknown one."""
    from indexer.peers.registry import check_names

    found = list(dict.fromkeys(one.strip() for one in given.split(",")))
    check_names(found)
    return found


def _options(given: Sequence[str] | None, **defaults: Any) -> PeerOptions:
    """The options of --set. Raises InputError for one that is unknown or wrong."""
    import tomllib

    from pydantic import ValidationError

    from indexer.artifacts.lines import validation_sentence
    from indexer.peers.options import PeerOptions
    from p4r_qdrant.errors import InputError

    try:
        return PeerOptions.model_validate(defaults | tomllib.loads("\n".join(given or ())))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--set needs NAME=VALUE, such as words=100: {error}") from None
    except ValidationError as error:
        raise InputError(f"--set: {validation_sentence(error)}") from None
