"""Replaces the personas of an item without a gap, and repairs what a crash interrupted.

New points are written first, marked unsettled, over older ones only; then older points are
deleted; then the mark is removed. A reader sees the old personas of an item, the new ones, or for
an instant both, but never none. If two processes write one item, the later write wins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.engine import Engine
from p4r_qdrant.index.payload import (
    CONTENT_HASH,
    GENERATION,
    ITEM_ID,
    POSITION,
    UNSETTLED,
    Point,
)

WRITE_BATCH = 256
"""The number of items that one request writes or settles."""


def now() -> int:
    """A generation: the time in microseconds (exact in JSON readers that know only doubles)."""
    return time.time_ns() // 1000


def write(engine: Engine, items: Mapping[str, list[Point]]) -> set[str]:
    """Write items, whether the index has them or not: item id -> its points.

    Items that are new in the index skip the coordination between writers, unless another writer
    adds them at the same time. Returns the ids of items whose newer write was kept.
    """
    held = generations(engine, list(items))
    fresh = [one for item_id, own in items.items() if item_id not in held for one in own]
    known = [one for item_id, own in items.items() if item_id in held for one in own]
    if fresh:
        engine.upsert(fresh)
        known += _contested(engine, fresh)
    return replace(engine, known) if known else set()


def write_unchanged(
    engine: Engine, items: Mapping[str, list[Point]], known: Mapping[str, int]
) -> set[str]:
    """Write items that were not written since `known` was read; the others are kept.

    No clocks are compared: an item gets the generation after the one that was known, and every
    other writer takes a later one.

    items: item id -> its points. known: item id -> generation. Returns the ids of items that stay.
    """
    with engine.replacing():
        held = generations(engine, list(items))
        changed = {one for one in items if max(held.get(one, {0})) != known.get(one, 0)}
        together: dict[int, list[Point]] = {}
        for item_id in items.keys() - changed:
            together.setdefault(known.get(item_id, 0) + 1, []).extend(items[item_id])
        for generation, points in together.items():
            changed |= replace(engine, points, generation)
        return changed


def replace(engine: Engine, points: list[Point], generation: int = 0) -> set[str]:
    """Replace the points of items; returns the ids of items where a newer write stays.

    generation: of the write, which gives way to others of the same; 0: newer than all that there
    is.

    A writer that finds a newer generation deletes its own points. A writer that finds another
    writer's points under its own generation writes again, under the next one. The mark is removed
    last, so that `repair` finds every item that a crash left in between.
    """
    with engine.replacing():
        own = {point.payload[ITEM_ID]: point.payload[CONTENT_HASH] for point in points}
        item_ids = list(own)
        held = generations(engine, item_ids).values()
        newest = max((one for found in held for one in found), default=0)
        gives_way = generation > 0
        # A slow clock must not lose a later write, nor tie with one that gives way (newest + 1).
        generation = generation or max(now(), newest + 2)
        for point in points:
            point.payload[GENERATION] = generation
            point.payload[UNSETTLED] = 1
        engine.upsert(points, older_than=generation)
        engine.delete(item_ids, older_than=generation)
        newer = settle(engine, item_ids, own, generation)
        if gives_way:
            return set(newer)
        tied = {item_id for item_id, found in newer.items() if found == generation}
        again = [point for point in points if point.payload[ITEM_ID] in tied]
        return (set(newer) - tied) | (replace(engine, again) if again else set())


def settle(
    engine: Engine,
    item_ids: Sequence[str],
    own: Mapping[str, str] | None = None,
    generation: int = 0,
) -> dict[str, int]:
    """Leave each item with its newest generation, without the mark.

    own: item id -> content hash that the caller wrote with `generation`; None if the caller wrote
    nothing. Returns the newest generation of the items that another writer has written, too; these
    keep their mark.
    """
    newer: dict[str, int] = {}
    settled: dict[int, list[str]] = {}
    for item_id, found in generations(engine, item_ids).items():
        newest = max(found)
        if len(found) > 1:
            engine.delete([item_id], older_than=newest)
        tied = own and newest == generation and found[newest] != {own[item_id]}
        if own and (tied or newest > generation):
            newer[item_id] = newest
        else:
            settled.setdefault(newest, []).append(item_id)
    for newest, kept in settled.items():
        engine.clear_mark(kept, newest)
    return newer


def repair(engine: Engine) -> int:
    """Finish the replacements that a crash interrupted; returns the number of items."""
    with engine.replacing():
        unsettled = engine.unsettled()
        for batch in batches(unsettled, WRITE_BATCH):
            settle(engine, batch)
        if unsettled:
            engine.discard_derived()
        return len(unsettled)


def settled(points: Sequence[Point], *, is_final: bool = False) -> list[Point]:
    """The points of one item as one write left them; empty if it is being replaced.

    is_final: nobody is replacing it any more: what a killed writer left is read as `repair` would
    leave it, if its newest points are complete.
    """
    newest = max(point.payload[GENERATION] for point in points)
    own = [point for point in points if point.payload[GENERATION] == newest]
    written = own[0].payload[CONTENT_HASH].partition("-")[0]
    is_marked = any(UNSETTLED in point.payload for point in points)
    if written != str(len(own)) or not (is_final or (len(own) == len(points) and not is_marked)):
        return []
    return [
        Point(
            point.id,
            point.vector,
            {name: one for name, one in point.payload.items() if name != UNSETTLED},
        )
        for point in own
    ]


def generations(engine: Engine, item_ids: Sequence[str]) -> dict[str, dict[int, set[str]]]:
    """Item id -> generation -> content hashes of its points. Missing items are left out."""
    found: dict[str, dict[int, set[str]]] = {}
    for payload in engine.payloads(item_ids, [ITEM_ID, GENERATION, CONTENT_HASH, POSITION]):
        of_item = found.setdefault(payload[ITEM_ID], {})
        of_item.setdefault(payload[GENERATION], set()).add(payload[CONTENT_HASH])
    return found


def _contested(engine: Engine, fresh: Sequence[Point]) -> list[Point]:
    """The points, among those just written as new, whose item another writer has written, too."""
    own = {point.payload[ITEM_ID]: point.payload[GENERATION] for point in fresh}
    contested = {
        item_id
        for item_id, found in generations(engine, list(own)).items()
        if set(found) != {own[item_id]}
    }
    return [point for point in fresh if point.payload[ITEM_ID] in contested]
