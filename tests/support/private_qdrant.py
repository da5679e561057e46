"""Private Qdrant servers and clusters for a test, which is skipped where there is no binary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.qdrant_process import PrivateQdrant, binary, free_ports
from tests.support.not_run import not_run
from tests.support.polling import wait_until


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
    ports = free_ports(count)
    with private_servers(folder, count) as nodes:
        for number, (node, port) in enumerate(zip(nodes, ports, strict=True)):
            node.api_key = nodes[0].api_key
            node.environment |= {
                "QDRANT__SERVICE__API_KEY": node.api_key,
                "QDRANT__CLUSTER__ENABLED": "true",
                "QDRANT__CLUSTER__P2P__PORT": str(port),
                "QDRANT_URI": f"http://127.0.0.1:{port}",
            }
            if number:
                node.environment["QDRANT_BOOTSTRAP"] = f"http://127.0.0.1:{ports[0]}"
            node.start()
        wait_until(lambda: all(len(_peers(node)) == count for node in nodes))
        yield nodes


def _peers(node: PrivateQdrant) -> list[str]:
    return list(node.server.request("GET", "/cluster")["result"]["peers"])


def replicas(node: PrivateQdrant, collection: str) -> list[str]:
    """The states of all replicas of all shards, as this node sees them."""
    answer = node.server.request("GET", f"/collections/{collection}/cluster")["result"]
    return [one["state"] for one in answer["local_shards"] + answer["remote_shards"]]
