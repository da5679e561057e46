"""What an operator does with the shards of a cluster, by Qdrant's REST API."""

from typing import Any

from devtools.qdrant_process import PrivateQdrant
from tests.support.polling import wait_until


def peer_id(node: PrivateQdrant) -> int:
    return int(node.server.request("GET", "/cluster")["result"]["peer_id"])


def collections(node: PrivateQdrant) -> list[str]:
    found = node.server.request("GET", "/collections")["result"]["collections"]
    return [str(one["name"]) for one in found]


def placement(node: PrivateQdrant, collection: str) -> dict[int, dict[int, str]]:
    """Shard -> the peers that have a replica of it -> its state."""
    found = _cluster(node, collection)
    places: dict[int, dict[int, str]] = {}
    for one in found["local_shards"]:
        places.setdefault(one["shard_id"], {})[found["peer_id"]] = one["state"]
    for one in found["remote_shards"]:
        places.setdefault(one["shard_id"], {})[one["peer_id"]] = one["state"]
    return places


def all_active(node: PrivateQdrant, count: int) -> bool:
    """Whether each shard of all collections has so many replicas, all active, and none moves."""
    return all(
        not _cluster(node, name)["shard_transfers"]
        and all(
            list(held.values()) == ["Active"] * count for held in placement(node, name).values()
        )
        for name in collections(node)
    )


def move_shards(node: PrivateQdrant) -> int:
    """Move a replica of each shard to a node that has none; returns how many have been moved."""
    peers = {int(one) for one in node.server.request("GET", "/cluster")["result"]["peers"]}
    moved = 0
    for name in collections(node):
        for shard, held in placement(node, name).items():
            source, target = min(held), min(peers - held.keys())
            _change(node, name, "move_shard", shard, source, target)
            wait_until(
                lambda: placement(node, name)[shard].keys() == held.keys() - {source} | {target},  # noqa: B023
                120,
            )
            moved += 1
    return moved


def fill(node: PrivateQdrant, empty: int) -> None:
    """Put a replica of each shard on a node that is new in the cluster."""
    for name in collections(node):
        for shard, held in placement(node, name).items():
            if empty not in held:
                _change(node, name, "replicate_shard", shard, min(held), empty)
                wait_until(lambda: placement(node, name)[shard].get(empty) == "Active", 120)  # noqa: B023


def _change(
    node: PrivateQdrant, collection: str, what: str, shard: int, source: int, target: int
) -> None:
    body = {what: {"shard_id": shard, "from_peer_id": source, "to_peer_id": target}}
    node.server.request("POST", f"/collections/{collection}/cluster", body, timeout=60)


def _cluster(node: PrivateQdrant, collection: str) -> dict[str, Any]:
    return dict(node.server.request("GET", f"/collections/{collection}/cluster")["result"])
