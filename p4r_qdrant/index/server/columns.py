"""The columns of a version on a Qdrant server: one collection of sparse vectors for each set.

    VERSION-columns-N    a point for each item: its column, its id and number in the payload
    VERSION-columns      those of all sets of all tenants, if there are tenants; the payload names
                         tenant and set

The point's id follows from the item id, so that no payload index is needed. A column is compared
with a history by the dot product over the numbers of items that both hold.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from qdrant_client import grpc, models

from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.columns import NO_ENTRIES, Column, ColumnSet, Scored, Weights
from p4r_qdrant.index.payload import ITEM_ID, TENANT
from p4r_qdrant.index.server import queries
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.scope import TENANT_INDEX, Scope
from p4r_qdrant.settings import Settings

COLUMN = "column"
"""The name of the sparse vector."""
NUMBER = "number"
"""The field of the payload with the item's number."""
POINTS_A_REQUEST = 500
MOST_CANDIDATES = 2000
"""Most candidates of one query; longer lists are split into queries of one batch."""
MOST_CACHED = 200_000
"""Numbers of items that a reader keeps."""
MOST_COLUMNS = 10_000
"""Columns that a reader keeps: 20 MB, if each has 200 entries."""

Known = TypeVar("Known")

SET = "set"
"""The field of the payload with the number of the set, where tenants share a collection."""
COLUMNS_OF = "-columns"
"""Ends the name of the collection with the columns of all tenants."""
SHARED_INDEXES: dict[str, Any] = {
    TENANT: TENANT_INDEX,
    SET: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False),
}
"""The payload indexes of that collection."""

_SET = "{}-columns-"
_IS_SET = re.compile(r"-columns(-\d+)?$")
_NUMBER = grpc.WithPayloadSelector(include=grpc.PayloadIncludeSelector(fields=[NUMBER]))
_ITEM_ID = grpc.WithPayloadSelector(include=grpc.PayloadIncludeSelector(fields=[ITEM_ID]))
_NO_PAYLOAD = grpc.WithPayloadSelector(enable=False)


def is_set(name: str) -> bool:
    """Whether this is the name of a collection of columns."""
    return _IS_SET.search(name) is not None


class ServerColumnSets:
    """The sets of one version; see `ColumnSets`."""

    def __init__(self, version: Collection, settings: Settings) -> None:
        self._version = version
        self._settings = settings

    def open(self, number: int) -> ColumnSet:
        """See `ColumnSets`."""
        collection = self._collection(number)
        if not collection.exists() or (self._is_shared and not collection.count()):
            raise IndexMismatchError(
                f"the set {number} of columns in {collection.name!r} on "
                f"{self._settings.qdrant.url} is missing; publish the artifacts again"
            )
        collection.info()
        return ServerColumns(collection)

    def write(self, number: int, columns: Iterable[Column]) -> None:
        """See `ColumnSets`."""
        collection, index = self._collection(number), self._settings.index
        self._delete(collection)
        sparse = models.SparseVectorParams(
            index=models.SparseIndexParams(on_disk=index.on_disk_vectors)
        )
        collection.make(
            index,
            vectors_config={},
            sparse_vectors_config={COLUMN: sparse},
            on_disk_payload=index.on_disk_payload,
        )
        collection.info()
        if self._is_shared:
            collection.index_fields(SHARED_INDEXES)
        for some in batches(columns, POINTS_A_REQUEST):
            collection.within_limits(partial(put, collection, some))

    def drop(self, kept: Ids[int] = ()) -> None:
        """See `ColumnSets`."""
        if self._is_shared:
            own = self._shared(self._version.scope)
            if own.exists():
                held = [
                    models.FieldCondition(key=SET, match=models.MatchValue(value=one))
                    for one in kept
                ]
                own.delete(models.Filter(must_not=held))
            return
        client, call = self._version.client, self._version.connection.call
        prefix = _SET.format(self._version.name)
        for one in call(client.get_collections).collections:
            number = one.name.removeprefix(prefix)
            if one.name != number and number.isdecimal() and int(number) not in kept:
                call(partial(client.delete_collection, one.name))

    @property
    def _is_shared(self) -> bool:
        """Whether other tenants have their columns in the same collection."""
        return bool(self._version.scope.marks)

    def _delete(self, collection: Collection) -> None:
        """Delete a set, if it exists."""
        if not self._is_shared:
            delete = partial(collection.client.delete_collection, collection.name)
            collection.connection.call(delete)
        elif collection.exists():
            collection.delete(models.Filter())

    def _collection(self, number: int) -> Collection:
        if self._is_shared:
            return self._shared(Scope.of(self._version.scope.tenant, **{SET: number}))
        name = f"{_SET.format(self._version.name)}{number}"
        return Collection(self._version.connection, name, self._settings.qdrant.timeout_s)

    def _shared(self, scope: Scope) -> Collection:
        name = f"{self._version.name}{COLUMNS_OF}"
        timeout_s = self._settings.qdrant.timeout_s
        return Collection(self._version.connection, name, timeout_s, scope)


class ServerColumns:
    """One set; see `ColumnSet`."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._lock = threading.Lock()
        self._known: dict[str, int | None] = {}
        """Numbers of items, None if they have none. In one set they never change."""
        self._read: dict[str, Column] = {}
        """Columns that were read. They change if an item leaves the catalogue and comes back."""

    def numbers(self, item_ids: Ids[str]) -> dict[str, int]:
        """See `ColumnSet`."""
        known = self._known
        found = {one: known[one] for one in item_ids if one in known}
        unknown = [one for one in item_ids if one not in found]
        if unknown:
            new = self._collection.within_limits(partial(self._read_numbers, unknown))
            fresh = {one: new.get(one) for one in unknown}
            self._keep(known, fresh, MOST_CACHED)
            found |= fresh
        return {one: number for one, number in found.items() if number is not None}

    def _read_numbers(self, item_ids: Sequence[str]) -> dict[str, int]:
        found = {}
        for item_id, point in self._points(item_ids, _NUMBER):
            if NUMBER in point.payload:
                found[item_id] = int(queries.plain(point.payload[NUMBER]))
        return found

    def items(self) -> Iterator[tuple[str, int | None]]:
        """See `ColumnSet`."""
        for payload in self._collection.scroll(models.Filter()):
            number = payload.get(NUMBER)
            yield payload[ITEM_ID], None if number is None else int(number)

    def _keep(self, known: dict[str, Known], fresh: dict[str, Known], most: int) -> None:
        """Add what was read; what was added first goes if there is more than `most`."""
        with self._lock:
            for one in [*known][: max(0, len(known) + len(fresh) - most)]:
                del known[one]
            known.update(fresh)

    def columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        """See `ColumnSet`."""
        found = self._collection.within_limits(partial(self._columns, item_ids))
        self._keep(self._read, found, MOST_COLUMNS)
        return found

    def products(self, user: Weights, item_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """See `ColumnSet`."""
        read = self._read
        held = {one: column for one in item_ids if (column := read.get(one)) is not None}
        if len(held) < len(item_ids):
            held |= self.columns([one for one in item_ids if one not in held])
        found = (held.get(one) for one in item_ids)
        return user.products(
            [NO_ENTRIES if one is None else (one.places, one.values) for one in found]
        )

    def _columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        found = {}
        for item_id, point in self._points(item_ids, _NUMBER, with_vectors=True):
            if (sparse := _sparse(point.vectors)) is not None:
                number = queries.plain(point.payload[NUMBER]) if NUMBER in point.payload else None
                found[item_id] = Column(item_id, None if number is None else int(number), *sparse)
        return found

    def _points(
        self, item_ids: Sequence[str], fields: Any, *, with_vectors: bool = False
    ) -> Iterator[tuple[str, Any]]:
        for some in batches(item_ids, min(POINTS_A_REQUEST, self._collection.limits.read)):
            owner = {self._collection.scope.point_id(one): one for one in some}
            message = grpc.GetPoints(
                collection_name=self._collection.name,
                ids=[grpc.PointId(uuid=one) for one in owner],
                with_payload=fields,
                with_vectors=grpc.WithVectorsSelector(enable=with_vectors),
            )
            for point in self._collection.ask("Get", message):
                yield owner[point.id.uuid], point

    def scores(self, users: Sequence[Weights], candidates: Sequence[Sequence[str]]) -> list[Scored]:
        """See `ColumnSet`."""
        return self._collection.within_limits(partial(self._scores, users, candidates))

    def _scores(
        self, users: Sequence[Weights], candidates: Sequence[Sequence[str]]
    ) -> list[Scored]:
        limits = self._collection.limits
        length = max(1, min(MOST_CANDIDATES, limits.values, limits.points))
        asked, messages = [], []
        for place, (user, item_ids) in enumerate(zip(users, candidates, strict=True)):
            for some in batches(item_ids, length):
                owner = {self._collection.scope.point_id(one): one for one in some}
                message = self._query(user, len(owner), _NO_PAYLOAD)
                among = message.filter.must.add().has_id.has_id  # filled in place: no copies
                for one in owner:
                    among.add().uuid = one
                asked.append((place, owner))
                messages.append(message)
        scores: list[Scored] = [{} for _ in users]
        if not messages:
            return scores
        answers = queries.send(self._collection, messages)
        for (place, owner), answer in zip(asked, answers, strict=True):
            scores[place].update((owner[one.id.uuid], one.score) for one in answer)
        return scores

    def nearest(self, user: Weights, limit: int) -> list[tuple[str, float]]:
        """See `ColumnSet`."""
        return self._collection.within_limits(partial(self._nearest, user, limit))

    def _nearest(self, user: Weights, limit: int) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        while len(found) < limit:
            size = min(limit - len(found), self._collection.limits.points)
            message = self._query(user, size, _ITEM_ID)
            message.offset = len(found)
            page = self._collection.ask("Query", message)
            above = [one for one in page if one.score > 0]
            found += [(one.payload[ITEM_ID].string_value, one.score) for one in above]
            if len(above) < size:
                break
        return found

    def _query(self, user: Weights, limit: int, fields: Any) -> grpc.QueryPoints:
        sparse = grpc.SparseVector(indices=user.places.tolist(), values=user.values.tolist())
        return grpc.QueryPoints(
            collection_name=self._collection.name,
            query=grpc.Query(nearest=grpc.VectorInput(sparse=sparse)),
            using=COLUMN,
            limit=limit,
            with_payload=fields,
        )

    def put(self, columns: Sequence[Column]) -> None:
        """See `ColumnSet`."""
        self._collection.within_limits(partial(put, self._collection, columns))
        self._forget([one.item_id for one in columns])

    def remove(self, item_ids: Sequence[str]) -> None:
        """See `ColumnSet`."""
        ids: list[Any] = [self._collection.scope.point_id(one) for one in item_ids]
        self._collection.delete_vectors(COLUMN, ids)
        self._forget(item_ids)

    def _forget(self, item_ids: Sequence[str]) -> None:
        with self._lock:
            for one in item_ids:
                self._read.pop(one, None)


def put(collection: Collection, columns: Sequence[Column]) -> None:
    """Write columns into a set."""
    collection.upsert([_point(one, collection.scope) for one in columns])


def _point(column: Column, scope: Scope) -> models.PointStruct:
    """An item without entries has no vector."""
    vector = models.SparseVector(indices=column.places.tolist(), values=column.values.tolist())
    number = {} if column.number is None else {NUMBER: column.number}
    return models.PointStruct(
        id=scope.point_id(column.item_id),
        vector={COLUMN: vector} if len(column.places) else {},
        payload={ITEM_ID: column.item_id, **number},
    )


def _sparse(vectors: grpc.VectorsOutput) -> tuple[Any, Any] | None:
    """Places and values, ascending; from the field of newer servers, or of older ones."""
    if COLUMN not in vectors.vectors.vectors:
        return None
    stored = vectors.vectors.vectors[COLUMN]
    if stored.WhichOneof("vector") == "sparse":
        places, values = stored.sparse.indices, stored.sparse.values
    else:
        places, values = stored.indices.data, stored.data
    order = np.argsort(found := np.array(places, dtype=np.uint32))
    return found[order], np.array(values, dtype=np.float32)[order]
