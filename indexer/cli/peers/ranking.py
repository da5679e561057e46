"""`p4r peers rank`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.outputs import check_output
from indexer.cli.peers.answering import answering
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import CandidateFiles, PeerAsking, peer_options
from indexer.cli.shared import exit_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from indexer.peers.protocol import Asker, PeerAnswer

Name = Annotated[
    str, typer.Option("--peer", help="listwise, letters, pointwise, rated or explained.")
]


@peers.command(
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r peers rank --peer listwise "
    "--artifacts examples/bookshop --candidates examples/bookshop/candidates.jsonl "
    "--domain books --output ranked --dry-run"
)
@grouped
def rank(
    files: CandidateFiles,
    asking: PeerAsking,
    peer: Name = "listwise",
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many lists.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many candidates of a list.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many places need to be right; fewer calls."),
    ] = None,
) -> None:
    """Order candidate lists by an LLM, as ZS-LLM, LlamaRec, TALLRec, EXP3RT or XRec do.

    Histories are without what splits.jsonl holds out. The output is a candidates file for
    `p4r evaluate`. Killed and run again, it goes on and pays for no answer twice.

    A model on this machine, tuned or not, can answer in place of an endpoint.
    """
    from indexer.artifacts.candidate_lists import read_candidates
    from indexer.artifacts.derived import noted
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.ledger import LEDGER
    from indexer.peers import registry
    from indexer.peers.asking import PeerSources
    from indexer.peers.lists import queries
    from indexer.peers.material import Material
    from indexer.peers.results import Totals, line
    from indexer.peers.running import rank_all
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_totals
    from p4r_qdrant.errors import InputError, P4RError

    refusals, again = Refusals(), asking.retry_failed
    chosen = peer_options(asking.options)
    target = files.output / f"{peer}.jsonl"
    check_output(target, [files.candidates], force=asking.force or (files.output / LEDGER).is_dir())
    with Material(ArtifactFolder(files.artifacts), refusals) as material:
        who = answering(asking.local, asking.adapter)
        sources = PeerSources(Domain.load(files.domain), who.llm, chosen, material)
        made = registry.made(peer, sources)
        lists = read_candidates(files.candidates, refusals)
        wanted = list(queries(material, lists, users=users, depth=depth, top=top))
        if not wanted:
            why = f": {refusals.sentences[0]}" if refusals.total else ""
            raise InputError(f"{files.candidates} holds no list of candidates{why}")

        async def ranked(ask: Asker, done: Callable[[], None]) -> Sequence[PeerAnswer]:
            return await rank_all(made, wanted, ask, done)

        if asking.dry_run:
            who.count(files.output, ranked, retry_failed=again)
            exit_for(refusals)
            return
        with noted(files.artifacts, files.output):
            answers = who.run(files.output, made.step, len(wanted), ranked, retry_failed=again)
        totals = Totals.of(peer, answers)
        if totals.failed and totals.failed == totals.requests:
            print_totals([totals])
            raise P4RError(
                f"none of {totals.failed:,} requests has a usable answer, so no ranking is "
                "written: try another model or other settings, or --retry-failed"
            )
        with written_whole(target, private=True) as write:
            for query, answer in zip(wanted, answers, strict=True):
                write(json.dumps(line(query, answer), ensure_ascii=False))
    print_totals([totals])
    out.say(f"rankings: {target}")
    exit_for(refusals)
