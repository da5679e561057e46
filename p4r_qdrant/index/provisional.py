"""Columns of B for items that came after the fit: those of the items with the nearest personas.

The next publish replaces them. Until then such an item can be recommended, and does not speak for
others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import normalised
from p4r_qdrant.errors import IndexRefusedError, for_log
from p4r_qdrant.index.columns import Column
from p4r_qdrant.index.index import PersonaIndex

NEAREST = 10
"""Items of which a provisional column is the mean."""

_log = logging.getLogger(__name__)


def add(index: PersonaIndex, items: Iterable[tuple[str, npt.ArrayLike]]) -> int:
    """Give new items a provisional column; returns how many have one now.

    items: (item id, its persona vectors (n, dim)), which are in the index. Items that have a column
    keep it. Nothing is done if the index has no collaborative part, or if its server forbids
    searches over the whole catalogue.
    """
    index.refresh()
    part = index.collaborative
    given = dict(items)
    if part is None or not given:
        return 0
    held = index.collaborative_columns([*given])
    try:
        found = [
            column
            for item_id, vectors in given.items()
            if item_id not in held
            and (column := _column(index, item_id, vectors, part.k)) is not None
        ]
    except IndexRefusedError as error:
        _log.warning("new items have no provisional column: %s", for_log(error))
        return 0
    index.put_provisional(found)
    return len(found)


def _column(index: PersonaIndex, item_id: str, vectors: npt.ArrayLike, most: int) -> Column | None:
    near = index.nearest_items(normalised(vectors), NEAREST, exclude=[item_id])
    columns = index.collaborative_columns([one.item_id for one in near])
    if not columns:
        return None
    together = np.concatenate([one.places for one in columns.values()])
    places, position = np.unique(together, return_inverse=True)
    sums = np.bincount(position, np.concatenate([one.values for one in columns.values()]))
    means = (sums / len(columns)).astype(np.float32)
    kept = np.sort(np.argsort(-np.abs(means), kind="stable")[:most])
    kept = kept[means[kept] != 0]
    return Column(item_id, None, places[kept], means[kept])
