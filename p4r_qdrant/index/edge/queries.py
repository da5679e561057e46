"""Searches of a Qdrant Edge shard, and their filters.

Without a filter the embedded engine scores with its matrix (`matrix.py`). These are the searches
with a filter, and those without one if there is no room for a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qdrant_edge as edge

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.engine import BestPoints, ItemPage, NearPoint
from p4r_qdrant.index.filters import Condition, values_at
from p4r_qdrant.index.payload import MOST_PER_ITEM, point_prefix

CANDIDATES_A_CALL = 500
"""Candidates of one search, which blocks all Python threads for some milliseconds."""

_EXACT = edge.SearchParams(exact=True)


def best_points(
    shard: edge.EdgeShard,
    vector: Floats,
    item_ids: list[str],
    conditions: list[Condition],
    per_item: int,
) -> BestPoints:
    """(score, point id) of the best persona of each candidate that has any: flat, exact searches.

    vector: (dim,) float32. `per_item`: personas an item is expected to have at most.
    """
    truths, others = _truths_apart(conditions)
    best: BestPoints = {}
    for some in batches(item_ids, CANDIDATES_A_CALL):
        owner = {point_prefix(item_id): item_id for item_id in some}
        wanted = edge.Filter(must=[any_item(some), *others])
        for point in _found(shard, vector, wanted, len(some), per_item, bool(truths)):
            if not all(_is_true_as_asked(point.payload or {}, one) for one in truths):
                continue
            name = str(point.id)
            item_id = owner[name[:-2]]
            held = best.get(item_id)
            if held is None or (point.score == held[0] and name < held[1]):
                best[item_id] = (point.score, name)
    return best


def nearest_points(
    shard: edge.EdgeShard, vector: Floats, limit: int, conditions: list[Condition]
) -> list[NearPoint]:
    """(score, point id, item id) of the points nearest to a user, best first.

    vector: (dim,) float32.
    """
    truths, others = _truths_apart(conditions)
    wanted = edge.Filter(must=others)
    asked, most = limit, shard.count(edge.CountRequest(exact=False))
    while True:
        request = edge.QueryRequest(
            limit=asked, query=edge.Query.Nearest(vector.tolist()), filter=wanted, with_payload=True
        )
        found = shard.query(request)
        kept = [
            (point.score, str(point.id), point.payload[names.ITEM_ID])
            for point in found
            if point.payload and all(_is_true_as_asked(point.payload, one) for one in truths)
        ]
        if len(kept) >= limit or len(found) < asked or asked > most:
            return kept[:limit]
        asked *= 4  # those that are not as true as asked took the places of others


def item_page(
    shard: edge.EdgeShard, conditions: list[Condition], words: str, limit: int, start: str | None
) -> ItemPage:
    """Items whose first persona meets the conditions, and where the next page begins."""
    truths, others = _truths_apart(conditions)
    title = [edge.FieldCondition(names.ITEM_TITLE, match=edge.MatchText(words))] if words else []
    wanted = edge.Filter(must=[equals(names.POSITION, 0), *title, *others])
    offset: Any = start
    item_ids: list[str] = []
    while True:
        page, following = shard.scroll(
            edge.ScrollRequest(offset=offset, limit=limit + 1, filter=wanted, with_payload=True)
        )
        for point in page:
            payload = point.payload or {}
            if all(_is_true_as_asked(payload, one) for one in truths):
                if len(item_ids) == limit:
                    return item_ids, str(point.id)
                item_ids.append(payload[names.ITEM_ID])
        if following is None:
            return item_ids, None
        offset = following


def _truths_apart(conditions: list[Condition]) -> tuple[list[Condition], list[Any]]:
    """The conditions on truth values, which are checked here, and the others as Edge wants them.

    Qdrant Edge 0.9 takes True for 1 and so never matches it.
    """
    truths = [one for one in conditions if one.any_of and isinstance(one.any_of[0], bool)]
    return truths, [condition(one) for one in conditions if one not in truths]


def _found(
    shard: edge.EdgeShard,
    vector: Floats,
    wanted: edge.Filter,
    items: int,
    per_item: int,
    with_payload: bool,
) -> list[edge.ScoredPoint]:
    """All points that fit, best first."""
    found: list[edge.ScoredPoint] = []
    for limit in (min(per_item + 1, MOST_PER_ITEM) * items, MOST_PER_ITEM * items):
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector.tolist()),
            filter=wanted,
            with_payload=with_payload,
            params=_EXACT,
        )
        found = shard.query(request)
        if len(found) < limit:
            break
    return found


def any_item(item_ids: Sequence[str]) -> edge.FieldCondition:
    """A point of any of these items."""
    return edge.FieldCondition(names.ITEM_ID, match=edge.MatchAny(list(item_ids)))


def of_items(item_ids: Sequence[str]) -> edge.Filter:
    """The points of these items."""
    return edge.Filter(must=[any_item(item_ids)])


def equals(field: str, value: int) -> edge.FieldCondition:
    """A point whose field has this value."""
    return edge.FieldCondition(field, match=edge.MatchValue(value))


def older(generation: int) -> edge.FieldCondition:
    """A point of an older generation."""
    return edge.FieldCondition(names.GENERATION, range=edge.RangeFloat(lt=generation))


def _is_true_as_asked(payload: dict[str, Any], condition: Condition) -> bool:
    values = values_at(payload, condition.field)
    return any(value is condition.any_of[0] for value in values) is not condition.negated


def condition(one: Condition) -> Any:
    """A filter condition as Qdrant Edge wants it; an exclusion becomes a nested filter."""
    if one.is_range:
        bounds = edge.RangeFloat(gt=one.gt, gte=one.gte, lt=one.lt, lte=one.lte)
        return edge.FieldCondition(one.field, range=bounds)
    values: list[Any] = list(one.any_of)
    match = edge.MatchValue(values[0]) if len(values) == 1 else edge.MatchAny(values)
    held = edge.FieldCondition(one.field, match=match)
    return edge.Filter(must_not=[held]) if one.negated else held
