"""`p4r peers bench`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.outputs import BENCH, Force, check_output
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import CandidateFiles, Set, peer_options

Peers = Annotated[
    str,
    typer.Option(
        "--peers",
        show_default="all",
        help="Names with commas, of listwise, letters, pointwise and rated.",
    ),
]


@peers.command(
    epilog="Example:  p4r peers bench --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl --domain books --depths 5,10 --users 1,10 "
    "--local --output bench"
)
@grouped
def bench(
    files: CandidateFiles,
    names: Peers = "listwise,letters,pointwise,rated",
    users: Annotated[str, typer.Option(help="Users at the same time, with commas.")] = "1,10,100",
    depths: Annotated[str, typer.Option(help="Candidates of a user, with commas.")] = "20,50,100",
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Time for all peers; the other cells are extrapolated.")
    ] = 7.0,
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

    target = files.output / "bench.json"
    check_output(target, [files.candidates], force=force, ours=BENCH)
    plan = BenchPlan(_numbers("--users", users), _numbers("--depths", depths), 60 * minutes)
    wanted = BenchRequest(
        files.artifacts, files.candidates, files.domain, _names(names), peer_options(options), plan
    )
    with ProgressBar() as bar:
        found = measured(wanted, Settings.load(), bar, local=local)
    files.output.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as write:
        write(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    print_bench(found)
    out.say(f"written: {target}")


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
