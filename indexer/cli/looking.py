"""`p4r show`, `search`, `status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.shared import AsJson, print_json
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from p4r_qdrant.index.index import PersonaIndex

group = typer.Typer()


@group.command(epilog="Example:  p4r show salt-orchard")
@of_tenant
def show(item: Annotated[str, typer.Argument(help="An item id.")], as_json: AsJson = False) -> None:
    """Print the personas of an item."""
    from dataclasses import asdict

    from indexer.terminal.index import print_personas
    from p4r_qdrant.index.payload import check_item_id

    with opened_live() as opened:
        personas = opened.get(check_item_id(item))
        if not personas:
            raise InputError(f"item {item!r} is not in {opened.location}")
    if as_json:
        texts = [asdict(one) | {"fields": dict(one.fields)} for one in personas]
        print_json({"item_id": item, "personas": texts})
    else:
        print_personas(item, personas)


@group.command(epilog='Example:  p4r search "a night nurse who cooks on one ring" --top 3')
@of_tenant
def search(
    text: Annotated[str, typer.Argument(help="A person, described in words.")],
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Number of items.")] = 10,
    filter: Annotated[  # noqa: A002
        str | None,
        typer.Option(metavar="JSON", help='Search only items that match: \'{"language": "en"}\'.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the items whose personas are nearest to a described person."""
    from indexer.terminal.index import print_found
    from indexer.terminal.progress import loading
    from p4r_qdrant.index.filters import from_json
    from p4r_qdrant.rerank.reranker import PersonaReranker
    from p4r_qdrant.schemas.search import FoundAnswer
    from p4r_qdrant.settings import Settings

    wanted = from_json(filter, "--filter")
    with loading("the encoder"), PersonaReranker.from_settings(Settings.load()) as reranker:
        found = reranker.search(text, top, filter=wanted)
    if as_json:
        print_json({"items": [FoundAnswer.of(one) for one in found if one.persona]})
    else:
        print_found(found)


@group.command(epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 p4r status")
@of_tenant
def status(as_json: AsJson = False) -> None:
    """Print the state of the index: where it is, its size, encoder and versions."""
    from dataclasses import asdict

    from indexer.terminal.index import print_stats
    from p4r_qdrant.index.opening import open_versions
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    with open_versions(settings) as versions, versions.open_live() as opened:
        stats, found, live = opened.stats(), versions.all(), opened.version
    if not as_json:
        print_stats(stats, found, live)
        return
    metadata = asdict(stats.metadata)
    metadata["typical_user"] = bool(metadata["typical_user"])  # a whole vector
    for name in ("collaborative", "scoring", "popular", "changes", "segments"):
        metadata[name] = json.loads(metadata[name]) if metadata[name] else None
    print_json(
        {
            "engine": stats.engine,
            "location": stats.location,
            "items": stats.items,
            "personas": stats.personas,
            "version": live,
            "metadata": metadata,
            "versions": [one.name for one in found],
            "details": dict(stats.details),
        }
    )


@contextmanager
def opened_live() -> Iterator[PersonaIndex]:
    """Context manager: the live index of the settings."""
    from p4r_qdrant.index.opening import open_index
    from p4r_qdrant.settings import Settings

    with open_index(Settings.load()) as opened:
        yield opened
