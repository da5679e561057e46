"""Private Qdrant servers and clusters for a test, which is skipped where there is no binary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.qdrant_process import PrivateQdrant, binary, start_cluster
from tests.support.network import Link
from tests.support.not_run import not_run

QUICK = {
    "QDRANT__STORAGE__OPTIMIZERS__FLUSH_INTERVAL_SEC": "1",
    "QDRANT__STORAGE__WAL__WAL_CAPACITY_MB": "2",
}
"""Settings of a server that flushes every second and has a small log."""


@contextmanager
def private_servers(folder: Path, count: int) -> Iterator[list[PrivateQdrant]]:
    """Servers that are not started yet; they are killed at the end.

    The binary is P4R_TEST_QDRANT_BINARY or the one that docker/fetch-qdrant.sh fetches.
    """
    path = binary()
    if path is None:
        not_run("there is no Qdrant binary (P4R_TEST_QDRANT_BINARY or docker/.cache/qdrant)")
    servers = []
    for number in range(count):
        own = folder / f"qdrant-{number}"
        own.mkdir()
        servers.append(PrivateQdrant(path, own))
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextmanager
def private_cluster(folder: Path, count: int) -> Iterator[list[PrivateQdrant]]:
    """Nodes that know each other; the key is the same for all."""
    with private_servers(folder, count) as nodes:
        start_cluster(nodes)
        yield nodes


@contextmanager
def linked_cluster(folder: Path, count: int) -> Iterator[tuple[list[PrivateQdrant], list[Link]]]:
    """Nodes that reach each other by links, one to each node."""
    made: list[Link] = []

    def linked(port: int) -> int:
        made.append(Link(port))
        return made[-1].port

    with private_servers(folder, count) as nodes:
        try:
            start_cluster(nodes, linked)
            yield nodes, made
        finally:
            for one in made:
                one.close()


def replicas(node: PrivateQdrant, collection: str) -> list[str]:
    """The states of all replicas of all shards, as this node sees them."""
    answer = node.server.request("GET", f"/collections/{collection}/cluster")["result"]
    return [one["state"] for one in answer["local_shards"] + answer["remote_shards"]]
