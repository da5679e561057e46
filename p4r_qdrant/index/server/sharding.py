"""Shards of tenants in a cluster: Qdrant's tiered multitenancy.

The collections of an index with tenants have shards by key: the key `shared` for all tenants, and
one named as the tenant for each that was promoted. A request names the tenant's key, and `shared`
as the one to take while the tenant's shard does not exist or is not complete.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from p4r_qdrant.errors import IndexUnavailableError, InputError
from p4r_qdrant.index.server.scope import SHARED

if TYPE_CHECKING:
    from p4r_qdrant.index.server.collection import Collection

PATIENCE_S = 3600.0
"""How long the points of a tenant may take to be copied."""
POLL_S = 0.2


def has_keys(client: Any) -> bool:
    """Whether the server can have shards by key: it is a node of a cluster."""
    return bool(client.http.distributed_api.cluster_status().result.status != "disabled")


def promote(collection: Collection) -> int:
    """Give the tenant of a collection's scope a shard of its own; returns the number of its points.

    Readers and writers go on meanwhile: Qdrant sends them to the shared shard until all points are
    copied, and to the own shard from then on. Then the copies in the shared shard are deleted.
    Killed and run again, it goes on. Raises InputError if the collection has no shards by key.
    """
    tenant = collection.scope.tenant
    info = collection.info()
    if info.config.params.sharding_method != models.ShardingMethod.CUSTOM:
        raise InputError(
            f"the collection {collection.name!r} has no shards by key, so no tenant can get one: "
            "it was made on a server that is no cluster; start Qdrant as a cluster (one node is "
            "enough), and move each tenant there with `p4r copy --tenant`"
        )
    api, call = collection.client.http.distributed_api, collection.connection.call
    if not states(collection).get(tenant):
        made = models.CreateShardingKey(
            shard_key=tenant,
            shards_number=info.config.params.shard_number,
            replication_factor=info.config.params.replication_factor,
            initial_state=models.ReplicaState.PARTIAL,
        )
        call(partial(api.create_shard_key, collection.name, create_sharding_key=made))
    _copy(collection)
    # Nobody reads these copies any more: every request is sent to the tenant's own shard.
    gone = partial(collection.client.delete, collection.name, collection.scope.filter(), wait=True)
    call(partial(gone, shard_key_selector=SHARED))
    return collection.count()


def demolish(collection: Collection) -> None:
    """Delete the shard of the tenant of a collection's scope, if it has one and that is empty."""
    info = collection.info()
    if info.config.params.sharding_method != models.ShardingMethod.CUSTOM:
        return
    tenant = collection.scope.tenant
    if states(collection).get(tenant) and not collection.count():
        api = collection.client.http.distributed_api
        gone = models.DropShardingKey(shard_key=tenant)
        drop = partial(api.delete_shard_key, collection.name, drop_sharding_key=gone)
        collection.connection.call(drop)


def _cluster(collection: Collection) -> models.CollectionClusterInfo:
    api = collection.client.http.distributed_api
    read = partial(api.collection_cluster_info, collection.name)
    found = collection.connection.call(read).result
    assert found is not None  # noqa: S101 - an error has raised
    return found


def states(collection: Collection) -> dict[str, list[models.ReplicaState]]:
    """Shard key -> the states of its shards."""
    found: dict[str, list[models.ReplicaState]] = {}
    info = _cluster(collection)
    shards: list[models.LocalShardInfo | models.RemoteShardInfo] = [*info.local_shards]
    for shard in [*shards, *info.remote_shards]:
        found.setdefault(str(shard.shard_key), []).append(shard.state)
    return found


def fewest_replicas(collection: Collection) -> int:
    """How many replicas the shard with the fewest has, in whatever state."""
    info = _cluster(collection)
    shards: list[models.LocalShardInfo | models.RemoteShardInfo] = [*info.local_shards]
    counts = Counter(one.shard_id for one in [*shards, *info.remote_shards])
    return min(counts.values(), default=0)


def _is_complete(collection: Collection) -> bool:
    own = states(collection).get(collection.scope.tenant, [])
    return bool(own) and all(one == models.ReplicaState.ACTIVE for one in own)


def _is_copying(collection: Collection) -> bool:
    return bool(_cluster(collection).shard_transfers)


def _copy(collection: Collection) -> None:
    """Copy the tenant's points into its own shard, and wait until it answers.

    Copying begins again where Qdrant has given it up, and after that of another tenant.
    """
    copying = models.ReplicatePoints(
        filter=collection.scope.filter(),
        from_shard_key=SHARED,
        to_shard_key=collection.scope.tenant,
    )
    operation = models.ReplicatePointsOperation(replicate_points=copying)
    api = collection.client.http.distributed_api
    begin = partial(api.update_collection_cluster, collection.name, cluster_operations=operation)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        was_copying = _is_copying(collection)  # asked first: what ends meanwhile is complete
        if _is_complete(collection):
            return
        if not was_copying:
            collection.connection.call(begin)
        time.sleep(POLL_S)
    raise IndexUnavailableError(
        f"Qdrant is still copying points of {collection.name!r} after {PATIENCE_S:g} s; run "
        "`p4r tenant promote` again later, which waits on"
    )
