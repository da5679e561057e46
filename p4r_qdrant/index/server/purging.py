"""Take what was deleted out of the files of a Qdrant server.

Qdrant marks a point as deleted. Its words stay:

    in a segment            until the optimizer writes the segment anew; it is made to
    in the write-ahead log  until newer writes fill its files; writes that change nothing do
    in snapshots            until somebody deletes them
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from qdrant_client import models

from p4r_qdrant.errors import AuthenticationError, IndexRefusedError
from p4r_qdrant.index.server.collection import Collection

NOTE = "purging"
"""The field of a collection's metadata with the settings that a purge has changed."""
SMALL = 50_000
"""Up to so many points, all segments are written anew, twice."""
LEAST_IN_A_SEGMENT = 100
"""Qdrant's least value for the points of a segment that is written anew for its deleted points."""
PATIENCE_S = 600.0
"""How long the optimizer may take."""
POLL_S = 0.5
MOST_AT_ONCE = 4 << 20
"""Bytes of a write that fills the log."""
NOBODY = models.Filter(must=[models.HasIdCondition(has_id=[str(UUID(int=0))])])


def purge(collections: Sequence[Collection]) -> list[str]:
    """Take deleted points out of the files of these collections.

    Searches and writes go on. The collections' settings are changed for a while; after a kill the
    next purge restores them.

    Returns: what remains and until when, as sentences. Raises IndexUnavailableError.
    """
    remains = []
    wait_s = 0.0
    for collection in collections:
        try:
            remains += _rewritten(collection)
            wait_s = max(wait_s, _filled(collection))
        except (AuthenticationError, IndexRefusedError) as error:
            remains.append(
                f"{collection.name}: the words stay in files of the server until it has rewritten "
                f"them by itself, since it refused to do so now ({error})"
            )
        remains += _in_snapshots(collection)
    time.sleep(wait_s)  # the files of the log go at the next flush
    return remains


def _rewritten(collection: Collection) -> list[str]:
    """Have the optimizer write the segments with deleted points anew."""
    info = collection.info()
    note = (info.config.metadata or {}).get(NOTE)
    before = json.loads(note) if note else _settings(info)
    is_small = (info.points_count or 0) <= SMALL
    if note:
        _set(collection, before)
    change: dict[str, Any] = (
        {"on_disk_payload": not before["on_disk_payload"]}
        if is_small
        else {"deleted_threshold": 0.0, "vacuum_min_vector_number": LEAST_IN_A_SEGMENT}
    )
    _note(collection, json.dumps(before))
    _set(collection, before | change)
    done = _settled(collection)
    _set(collection, before)
    done = _settled(collection) and done
    _note(collection, "")
    if done and is_small:
        return []
    remains = (
        f"what was deleted from a segment of fewer than {LEAST_IN_A_SEGMENT} points stays in its "
        "file until the segment has grown"
        if done
        else f"Qdrant was still rewriting segments after {PATIENCE_S:g} s; what they held of "
        "deleted points stays until it has finished"
    )
    return [f"{collection.name}: {remains}"]


def _settings(info: models.CollectionInfo) -> dict[str, Any]:
    optimizers = info.config.optimizer_config
    return {
        "on_disk_payload": info.config.params.on_disk_payload is not False,
        "deleted_threshold": optimizers.deleted_threshold,
        "vacuum_min_vector_number": optimizers.vacuum_min_vector_number,
    }


def _set(collection: Collection, settings: dict[str, Any]) -> None:
    optimizers = {name: value for name, value in settings.items() if name != "on_disk_payload"}
    change = partial(
        collection.client.update_collection,
        collection.name,
        collection_params=models.CollectionParamsDiff(on_disk_payload=settings["on_disk_payload"]),
        optimizers_config=models.OptimizersConfigDiff(**optimizers),
    )
    collection.connection.call(change)


def _note(collection: Collection, note: str) -> None:
    change = partial(collection.client.update_collection, collection.name, metadata={NOTE: note})
    collection.connection.call(change)


def _settled(collection: Collection) -> bool:
    """Wait for the optimizer; False if it takes longer than PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    greens = 0
    while greens < 2:
        if time.monotonic() > deadline:
            return False
        read = partial(collection.client.get_collection, collection.name)
        here = [one for one in collection.connection.on_each(read).values() if one is not None]
        are_green = all(one.status == models.CollectionStatus.GREEN for one in here)
        greens = greens + 1 if here and are_green else 0
        time.sleep(POLL_S)
    return True


def _filled(collection: Collection) -> float:
    """Fill the files of the write-ahead log that hold what was deleted.

    Returns: seconds until the server has removed them.
    """
    config = collection.info().config
    log = config.wal_config or models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0)
    capacity = log.wal_capacity_mb << 20
    files = 1 + (1 if log.wal_retain_closed is None else log.wal_retain_closed)
    size = min(MOST_AT_ONCE, capacity // 4)
    for _ in range(math.ceil(files * capacity / size)):
        collection.set_payload({"filling": "0" * size}, NOBODY)
    return config.optimizer_config.flush_interval_sec + 1.0


def _in_snapshots(collection: Collection) -> list[str]:
    """What the nodes say of their snapshots, which each of them keeps for itself."""
    read = partial(collection.client.list_snapshots, collection.name)
    try:
        by_node = collection.connection.on_each(read)
    except AuthenticationError:
        return [f"{collection.name}: snapshots hold it until you delete them, if there are any"]
    remains = [
        f"the files of {url}, which is away, hold it until you purge again"
        for url, found in by_node.items()
        if found is None
    ]
    snapshots = [one.name for found in by_node.values() for one in found or ()]
    if snapshots:
        newest = max(snapshots)
        remains.append(
            f"{len(snapshots)} snapshots hold it until you delete them (the newest: {newest})"
        )
    return [f"{collection.name}: {one}" for one in remains]
