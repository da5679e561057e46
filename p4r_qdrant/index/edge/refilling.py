"""Make the matrix anew from the points of a shard, as after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.edge.matrix import ScoreMatrix

FIELDS = (names.ITEM_ID, names.POSITION, names.CONTENT_HASH, names.UNSETTLED)
"""The fields that `refill` reads."""


def refill(
    matrix: ScoreMatrix,
    total: int,
    records: Iterable[Iterable[Any]],
    damaged: Callable[[str], IndexUnavailableError],
) -> None:
    """Put the vectors of a shard into an empty matrix.

    total: the points of the shard. records: all points of some items at a time, with FIELDS and
    vectors. Raises the error that `damaged` makes if an item has lost points: Qdrant Edge loses
    none.
    """
    matrix.reserve(total)
    for some in records:
        together: dict[str, list[tuple[int, Any]]] = {}
        written: dict[str, set[str]] = {}
        for record in some:
            item_id = record.payload[names.ITEM_ID]
            entry = (record.payload[names.POSITION], record.vector)
            together.setdefault(item_id, []).append(entry)
            marked = names.UNSETTLED in record.payload  # being replaced: any number is right
            number = "" if marked else record.payload[names.CONTENT_HASH].partition("-")[0]
            written.setdefault(item_id, set()).add(number)
        for item_id, entries in together.items():
            total -= len(entries)
            if "" not in written[item_id] and written[item_id] != {str(len(entries))}:
                raise damaged(f"item {item_id!r} has lost personas")
            entries.sort(key=lambda one: one[0])
            matrix.put(item_id, np.array([vector for _, vector in entries], dtype=np.float32))
    if total:
        raise damaged(f"{total} personas are of items that have lost their first")
