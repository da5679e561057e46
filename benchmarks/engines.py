"""Indexes on both engines, filled, and the server that a benchmark asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qdrant_client import models
from rich.console import Console
from rich.progress import Progress

from benchmarks.synthetic import DIMENSION, Catalogue
from devtools.qdrant_process import PrivateQdrant, binary
from p4r_qdrant import PersonaIndex, Settings, open_index
from p4r_qdrant.index.server.collection import Collection

err = Console(stderr=True)


def built(settings: Settings, catalogue: Catalogue, stack: ExitStack) -> PersonaIndex:
    index = stack.enter_context(
        open_index(settings, dimension=DIMENSION, fingerprint="benchmark", create=True)
    )
    if index.stats().items < catalogue.items:
        with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
            rows = progress.track(
                catalogue.rows(), total=catalogue.items, description=f"filling {index.location}"
            )
            index.load(rows)
    return index


def own_server(folder: Path, stack: ExitStack) -> PrivateQdrant | None:
    """A server that runs until the stack is closed, if docker/fetch-qdrant.sh has fetched one."""
    path = binary()
    if path is None:
        err.print("No server: docker/fetch-qdrant.sh gets one. The embedded engine alone then.")
        return None
    process = PrivateQdrant(path, folder)
    process.start()
    stack.callback(process.kill)
    return process


def place_of(process: PrivateQdrant) -> dict[str, Any]:
    """The settings in P4R_QDRANT__ that find a server."""
    return {
        "url": process.url,
        "grpc_port": process.grpc_port,
        "api_key": process.api_key,
        "timeout_s": 60,
    }


def found_server(folder: Path, stack: ExitStack) -> Settings | None:
    """The server that P4R_QDRANT__URL names, or one of its own."""
    settings = Settings.load()
    if settings.qdrant.url is not None:
        return settings
    process = own_server(folder, stack)
    return Settings.load(qdrant=place_of(process)) if process else None


def linked(server: Settings, collection: str) -> Settings:
    """A collection of its own with a graph, which recommendations of the whole catalogue need."""
    return server.model_copy(
        update={
            "qdrant": server.qdrant.model_copy(update={"collection": collection}),
            "index": server.index.model_copy(update={"hnsw": True}),
        }
    )


def wait_for_links(index: PersonaIndex) -> None:
    """Return when a server has linked all points for searches of the whole catalogue."""
    collection: Collection = index.engine._collection  # type: ignore[attr-defined]
    wait_until_optimized(collection.info)


def wait_until_optimized(info: Callable[[], models.CollectionInfo]) -> None:
    """Return when a collection has been green for five seconds.

    Between two optimizations it is green for a moment.
    """
    greens = 0
    while greens < 5:
        time.sleep(1)
        greens = greens + 1 if info().status == models.CollectionStatus.GREEN else 0
