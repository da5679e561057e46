"""Check every item of an index: its personas, their texts and vectors, and how they score.

The columns of the collaborative part are compared with their checksums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from p4r_qdrant.errors import P4RError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.engine import Engine
from p4r_qdrant.index.payload import (
    CONTENT_HASH,
    ITEM_ID,
    POSITION,
    UNSETTLED,
    stored_persona,
)

ITEMS_AT_ONCE = 256
SAME = 3e-3
"""The largest distance from 1 of a vector's score with itself: float16 rounds."""


def problems(engine: Engine) -> Iterator[str]:
    """One sentence for each defect of an index. No other process may write to it meanwhile."""
    seen = 0
    for item_ids in batches(engine.item_ids(), ITEMS_AT_ONCE):
        own: dict[str, list[dict[str, Any]]] = {item_id: [] for item_id in item_ids}
        for payload in engine.payloads(item_ids):
            own[payload[ITEM_ID]].append(payload)
        for item_id, payloads in own.items():
            seen += len(payloads)
            if problem := _of_payloads(payloads) or _of_vectors(engine, item_id, len(payloads)):
                yield f"item {item_id!r} {problem}; index it again"
    if lost := engine.stats().personas - seen:
        yield f"{lost} personas are of items whose first persona is gone; index them again"
    yield from _of_columns(engine)


def _of_columns(engine: Engine) -> Iterator[str]:
    part = CollaborativePart.from_text(engine.metadata.collaborative)
    if part is None:
        return
    try:
        columns = engine.columns.open(part.set)
    except P4RError as error:  # the files are damaged, or missing
        yield f"the collaborative part: {error}"
        return
    numbers = [number for _, number in columns.items() if number is not None]
    if len(set(numbers)) < len(numbers) or max(numbers, default=-1) >= part.next_number:
        yield "the collaborative part has item numbers that clash; publish the artifacts again"


def _of_payloads(payloads: Sequence[dict[str, Any]]) -> str:
    hashes = {str(one.get(CONTENT_HASH)) for one in payloads}
    written = next(iter(hashes)).partition("-")[0] if len(hashes) == 1 else ""
    if any(one.get(UNSETTLED) for one in payloads) or not written:
        return "is half replaced"
    if written != str(len(payloads)):
        return f"has {len(payloads)} personas of the {written} that it was written with"
    if [one[POSITION] for one in payloads] != list(range(len(payloads))):
        return "has personas out of their places"
    try:
        for one in payloads:
            stored_persona(one)
    except KeyError as error:
        return f"has a persona without {error}"
    return ""


def _of_vectors(engine: Engine, item_id: str, count: int) -> str:
    ids = [engine.point_id(item_id, position) for position in range(count)]
    found = engine.points(ids, with_vectors=True)
    if missing := set(ids) - found.keys():
        return f"has no point {min(missing)}"
    vectors = np.array([found[one][1] for one in ids], dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or (np.abs(lengths - 1) > SAME).any():
        return "has a vector that is not of length 1"
    for best in engine.best_points(vectors, [[item_id]] * count, []):
        if item_id not in best or abs(best[item_id][0] - 1) > SAME:
            return "does not score as its own vectors say"
    return ""
