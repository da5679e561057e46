"""`p4r why-not`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.shared import Artifacts, AsJson, exit_for, print_json
from indexer.cli.tenant_option import of_tenant

group = typer.Typer()


@group.command(
    epilog="Example:  p4r why-not danuta-s winter-interpreter --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl --top 3"
)
@of_tenant
def why_not(
    user: Annotated[str, typer.Argument(help="A user of the artifact folder.")],
    item: Annotated[str, typer.Argument(help="An item id.")],
    artifacts: Artifacts,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The user's list; without one, the whole catalogue."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Among how many items it should be.")] = 10,
    additions: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Known items that are tried as one more interaction if leaving one out does not "
            "suffice.",
        ),
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Say why an item is not among the first, and which change of the history lifts it.

    A change leaves out one of the user's own items, or adds a known one. The one that is printed
    was applied: its rank is that of a new ranking.
    """
    from dataclasses import asdict

    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.reranking import Asked, why_not_of
    from indexer.terminal.progress import loading
    from indexer.terminal.why_not import print_why_not
    from p4r_qdrant.rerank.reranker import PersonaReranker
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    refusals = Refusals()
    with loading("the encoder"), PersonaReranker.from_settings(Settings.load()) as reranker:
        asked = Asked(user, item, top, additions)
        found = why_not_of(folder, candidates, reranker, asked, refusals)
    if as_json:
        print_json({"user_id": user, **asdict(found), "advice": found.advice})
    else:
        print_why_not(user, found)
    exit_for(refusals)
