"""The hot path on a server: raw gRPC messages out and in, no models in between.

One flat query for each user: the keyword index on `item_id` finds the points of the candidates,
which are scored exactly. The answer has the best points first, without payload: a point's id
identifies its item. The limit is higher than the number of points that the candidates should have.
If it is reached, the query is repeated with a higher limit. So nothing is cut off, and a candidate
without a result has no personas. Texts are read afterwards, only for the points that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from qdrant_client import grpc

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import IndexMismatchError, IndexRefusedError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.engine import BestPoints, ItemPage, NearPoint, StoredPoints
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.payload import (
    ITEM_ID,
    ITEM_TITLE,
    MOST_PER_ITEM,
    POSITION,
)
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.scope import Scope

CANDIDATES_A_QUERY = 2000
"""Most candidates of one query; longer lists are split into queries of one batch."""
POINTS_A_BATCH = 100_000
"""Most points in the answers of one batch."""

_EXACT = grpc.SearchParams(exact=True)
_ORIGINALS = grpc.SearchParams(quantization=grpc.QuantizationSearchParams(ignore=True))
_NO_PAYLOAD = grpc.WithPayloadSelector(enable=False)
_ITEM_ID = grpc.WithPayloadSelector(include=grpc.PayloadIncludeSelector(fields=[ITEM_ID]))
_ALL_PAYLOAD = grpc.WithPayloadSelector(enable=True)


def best_points(
    collection: Collection,
    vectors: Floats,
    candidates: Sequence[Sequence[str]],
    conditions: Sequence[Condition],
    *,
    per_item: int,
    top: int | None = None,
) -> list[BestPoints]:
    """For each user, (score, point id) of the best persona of each candidate that has any.

    vectors: (n_users, dim) float32. per_item: the expected maximum of personas of an item. top: see
    `Engine.best_points`; points come best first, so the answer of a query can end early. Raises the
    errors of `Connection.call`.
    """
    best: list[BestPoints] = [{} for _ in candidates]
    limits = collection.limits
    shared = condition_messages(conditions, limits.values)
    # One more than an item should have: reached, there may be more of them.
    expected = min(per_item + 1, MOST_PER_ITEM)
    most = min(limits.points, limits.unranked)
    length = max(1, min(CANDIDATES_A_QUERY, limits.values, most // expected))
    queries = [
        (user, item_ids[start : start + length])
        for user, item_ids in enumerate(candidates)
        for start in range(0, len(item_ids), length)
    ]
    if not limits.exact:  # then points do not come in the order of their scores
        top = None
    needed = [min(top or len(item_ids), len(item_ids)) for _, item_ids in queries]
    asked = [min(expected * count, most) for count in needed]
    pending = list(range(len(queries)))
    while pending:
        taken = _a_batch(pending, asked)
        messages = [
            _query(collection, vectors[queries[one][0]], queries[one][1], shared, asked[one])
            for one in taken
        ]
        again = []
        for one, result in zip(taken, send(collection, messages), strict=True):
            user, item_ids = queries[one]
            whole = expected * len(item_ids)
            is_all = len(result) < asked[one] or asked[one] >= MOST_PER_ITEM * len(item_ids)
            if is_all or (top is not None and _has_first(result, needed[one])):
                _collect(collection.scope, result, item_ids, best[user])
            elif asked[one] < most:
                more = whole if asked[one] < whole else MOST_PER_ITEM * len(item_ids)
                asked[one] = min(more, most)
                again.append(one)
            elif len(item_ids) > 1:  # as much as the server gives: ask for fewer items
                half = len(item_ids) // 2
                for some in (item_ids[:half], item_ids[half:]):
                    queries.append((user, some))
                    needed.append(min(top or len(some), len(some)))
                    asked.append(most)
                    again.append(len(queries) - 1)
            elif limits.exact:  # best first: the others score less
                _collect(collection.scope, result, item_ids, best[user])
            else:
                raise IndexRefusedError(
                    f"the item {item_ids[0]!r} has {most} personas or more, and a query of "
                    f"{collection.name!r} brings back so many only (max_query_limit of its strict "
                    "mode); raise that limit"
                )
        pending = again + pending[len(taken) :]
    return best


def nearest_points(
    collection: Collection, vector: Floats, limit: int, conditions: Sequence[Condition]
) -> list[NearPoint]:
    """(score, point id, item id) of the points nearest to a user, best first.

    vector: (dim,) float32. Raises the errors of `Connection.call`.
    """
    limits = collection.limits
    where = grpc.Filter(must=condition_messages(conditions, limits.values))
    message = grpc.QueryPoints(
        collection_name=collection.name,
        query=grpc.Query(nearest=grpc.VectorInput(dense=grpc.DenseVector(data=vector.tolist()))),
        filter=where,
        with_payload=_ITEM_ID,
    )
    if not limits.searchable:
        count = collection.count()
        if count > limits.points:
            raise IndexRefusedError(
                f"the strict mode of {collection.name!r} forbids exact searches, and a search over "
                "the whole catalogue has no HNSW links there: run `p4r index` with "
                "P4R_INDEX__HNSW=true"
            )
        message.prefetch.append(grpc.PrefetchQuery(filter=where, limit=max(1, count)))
        message.params.CopyFrom(_ORIGINALS)
    found: list[NearPoint] = []
    while len(found) < limit:
        message.offset, message.limit = len(found), min(limit - len(found), limits.points)
        page = collection.ask("Query", message)
        found += [(one.score, one.id.uuid, one.payload[ITEM_ID].string_value) for one in page]
        if len(page) < message.limit:
            break
    return found


def item_page(
    collection: Collection,
    conditions: Sequence[Condition],
    words: str,
    limit: int,
    start: str | None,
) -> ItemPage:
    """Items whose first persona meets the conditions, and where the next page begins.

    Raises the errors of `Connection.call`.
    """
    first = grpc.FieldCondition(key=POSITION, match=grpc.Match(integer=0))
    title = grpc.FieldCondition(key=ITEM_TITLE, match=grpc.Match(text=words))
    where = [grpc.Condition(field=one) for one in ([first, title] if words else [first])]
    where += condition_messages(conditions, collection.limits.values)
    found, following = collection.page(grpc.Filter(must=where), [ITEM_ID], limit, start)
    return [one[ITEM_ID] for one in found], following


def points(
    collection: Collection, point_ids: Sequence[str], with_vectors: bool, only: str = ""
) -> StoredPoints:
    """Payload and vector ((dim,) float32, where asked for) of the points that are there.

    only: the one field of the payload to read; "": all.
    """
    found: StoredPoints = {}
    one_field = grpc.PayloadIncludeSelector(fields=[only])
    wanted = grpc.WithPayloadSelector(include=one_field) if only else _ALL_PAYLOAD
    for some in batches(point_ids, collection.limits.read):
        message = grpc.GetPoints(
            collection_name=collection.name,
            ids=[grpc.PointId(uuid=point_id) for point_id in some],
            with_payload=wanted,
            with_vectors=grpc.WithVectorsSelector(enable=with_vectors),
        )
        for point in collection.ask("Get", message):
            found[point.id.uuid] = (
                collection.scope.told(
                    {field: plain(value) for field, value in point.payload.items()}
                ),
                _vector(point.vectors.vector) if with_vectors else None,
            )
    return found


def condition_messages(conditions: Sequence[Condition], values: int) -> list[grpc.Condition]:
    """Filter conditions in the form of Qdrant; none has more than `values` values."""
    messages = []
    for one in conditions:
        if len(one.any_of) <= values:
            messages.append(condition_message(one))
            continue
        parts = [
            condition_message(replace(one, any_of=tuple(some)))
            for some in batches(one.any_of, values)
        ]
        if one.negated:
            messages += parts
        else:
            messages.append(grpc.Condition(filter=grpc.Filter(should=parts)))
    return messages


def condition_message(condition: Condition) -> grpc.Condition:
    """A filter condition in the form of Qdrant; an exclusion becomes a nested filter."""
    if condition.is_range:
        bounds = {
            name: value
            for name in ("gt", "gte", "lt", "lte")
            if (value := getattr(condition, name)) is not None
        }
        return grpc.Condition(
            field=grpc.FieldCondition(key=condition.field, range=grpc.Range(**bounds))
        )
    values: Any = condition.any_of
    first = values[0]
    if isinstance(first, bool):
        match = grpc.Match(boolean=first)
    elif isinstance(first, int):
        match = grpc.Match(integers=grpc.RepeatedIntegers(integers=values))
    else:
        match = grpc.Match(keywords=grpc.RepeatedStrings(strings=values))
    message = grpc.Condition(field=grpc.FieldCondition(key=condition.field, match=match))
    if condition.negated:
        return grpc.Condition(filter=grpc.Filter(must_not=[message]))
    return message


def _query(
    collection: Collection,
    vector: Floats,
    item_ids: Sequence[str],
    conditions: Sequence[grpc.Condition],
    limit: int,
) -> grpc.QueryPoints:
    candidates = grpc.Condition(
        field=grpc.FieldCondition(
            key=ITEM_ID, match=grpc.Match(keywords=grpc.RepeatedStrings(strings=item_ids))
        )
    )
    of_candidates = grpc.Filter(must=[candidates, *conditions])
    query = grpc.QueryPoints(
        collection_name=collection.name,
        query=grpc.Query(nearest=grpc.VectorInput(dense=grpc.DenseVector(data=vector.tolist()))),
        limit=limit,
        with_payload=_NO_PAYLOAD,
    )
    if collection.limits.exact:
        query.filter.CopyFrom(of_candidates)
        query.params.CopyFrom(_EXACT)
    else:
        # Exact without saying so: first the candidates' points, then their scores. There are so
        # few of them (`Limits.unranked`) that HNSW links are not used.
        query.prefetch.append(grpc.PrefetchQuery(filter=of_candidates, limit=limit))
        query.params.CopyFrom(_ORIGINALS)
    return query


def _a_batch(pending: Sequence[int], limits: Sequence[int]) -> list[int]:
    """The first of the pending queries whose points fit one batch, at least one."""
    taken: list[int] = []
    together = 0
    for one in pending:
        together += limits[one]
        if taken and together > POINTS_A_BATCH:
            break
        taken.append(one)
    return taken


def send(
    collection: Collection, messages: Sequence[grpc.QueryPoints]
) -> list[Sequence[grpc.ScoredPoint]]:
    """The answers of some queries, in one request."""
    if len(messages) == 1:
        return [collection.ask("Query", messages[0])]
    batch = grpc.QueryBatchPoints(collection_name=collection.name, query_points=messages)
    return [one.result for one in collection.ask("QueryBatch", batch)]


def _collect(
    scope: Scope,
    result: Sequence[grpc.ScoredPoint],
    item_ids: Sequence[str],
    best: BestPoints,
) -> None:
    """Keep the best point of each item (the lower slot of equals); points come best first."""
    first: dict[str, tuple[float, str]] = {}
    for one in result:
        point_id = one.id.uuid
        prefix = point_id[:-2]
        held = first.get(prefix)
        if held is None:
            first[prefix] = (one.score, point_id)
        elif point_id < held[1] and one.score == held[0]:
            first[prefix] = (held[0], point_id)
    owner = {scope.point_prefix(item_id): item_id for item_id in item_ids}
    for prefix, found in first.items():
        if prefix not in owner:
            raise IndexMismatchError(
                f"the point {found[1] or 'with a number as its id'} names one of the candidates as "
                "its item but was not written by p4r-qdrant; take it out, or index again elsewhere"
            )
        best[owner[prefix]] = found


def _has_first(result: Sequence[grpc.ScoredPoint], count: int) -> bool:
    """Whether the best items, so many and all with equal scores, are among the points."""
    items: set[str] = set()
    for one in result:
        items.add(one.id.uuid[:-2])
        if len(items) == count:
            return bool(result[-1].score < one.score)
    return False


def plain(value: grpc.Value) -> Any:
    """A payload value as a Python value, four times as fast as with qdrant-client."""
    if text := value.string_value:  # what nearly all of them are
        return text
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [plain(one) for one in value.list_value.values]
    if kind == "struct_value":
        return {field: plain(one) for field, one in value.struct_value.fields.items()}
    return None if kind in (None, "null_value") else getattr(value, kind)


def _vector(message: grpc.VectorOutput) -> Floats:
    """A vector, (dim,) float32, from the field of newer (`dense`) or older servers (`data`)."""
    if message.dense.data:
        # Its bytes end with the numbers; number by number they take ten times as long.
        data, count = message.dense.SerializeToString(), len(message.dense.data)
        return np.frombuffer(data, dtype="<f4", offset=len(data) - 4 * count).astype(np.float32)
    return np.array(message.data, dtype=np.float32)
