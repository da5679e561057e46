"""One collection on a Qdrant server, in requests that its strict mode allows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from grpc import RpcError
from qdrant_client import grpc, models
from qdrant_client.http.exceptions import UnexpectedResponse

from p4r_qdrant.errors import IndexRefusedError
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.server import sharding
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.scope import SHARED, Scope
from p4r_qdrant.settings.index import IndexSettings

UNLIMITED = sys.maxsize
PAGE = 1000
"""The points of one page of a scroll, if strict mode allows so many."""

ALONE = Scope()
"""The scope of the sole owner of a collection."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest requests that a collection takes.

    points: most points of a query or a page. written: most points of an upsert. read: most points
    that are read by id. values: most values of a condition, such as the ids of candidates. exact:
    whether exact searches and counts are allowed. unranked: most points among which every search is
    exact. searchable: whether the whole collection can be searched.
    """

    points: int = UNLIMITED
    written: int = UNLIMITED
    read: int = UNLIMITED
    values: int = UNLIMITED
    exact: bool = True
    unranked: int = UNLIMITED
    searchable: bool = True

    @classmethod
    def of(cls, info: models.CollectionInfo, timeout_s: float) -> Limits:
        """The limits of a collection. With a rate limit, no request needs to wait `timeout_s`."""
        strict = info.config.strict_mode_config
        if strict is None or not strict.enabled:
            return cls()
        vectors, hnsw = info.config.params.vectors, info.config.hnsw_config
        width = vectors.size if isinstance(vectors, models.VectorParams) else 1
        exact, linked = strict.search_allow_exact is not False, hnsw.m > 0
        return cls(
            points=strict.max_query_limit or UNLIMITED,
            written=min(
                strict.upsert_max_batchsize or UNLIMITED, _at(strict.write_rate_limit, timeout_s)
            ),
            read=_at(strict.read_rate_limit, timeout_s),
            values=strict.condition_max_size or UNLIMITED,
            exact=exact,
            # The threshold is in kilobytes of float32.
            unranked=UNLIMITED
            if exact or not linked
            else max(1, hnsw.full_scan_threshold * 1024 // (4 * width)),
            searchable=exact or linked,
        )


def _at(rate: int | None, timeout_s: float) -> int:
    """The points that a limit per minute allows in half of the time-out."""
    if not rate:
        return UNLIMITED
    return max(1, min(rate, math.floor(rate * timeout_s / 120)))


class Collection:
    """What one owner has in a collection of a connection.

    No method reads, changes or deletes a point of another owner: each request is held to `scope`.
    `limits` are from the last call of `info`. Every method waits for rate limits, and raises the
    errors of `Connection.call`.
    """

    def __init__(
        self, connection: Connection, name: str, timeout_s: float, scope: Scope = ALONE
    ) -> None:
        self.connection = connection
        self.client = connection.client
        self.name = name
        self.scope = scope
        self.limits = Limits()
        self._timeout_s = timeout_s
        self._is_keyed: bool | None = None if scope.marks else False
        """Whether it has shard keys; None: not known yet."""

    def info(self) -> models.CollectionInfo:
        """The state of the collection."""
        info = self.connection.call(lambda: self.client.get_collection(self.name))
        self.limits = Limits.of(info, self._timeout_s)
        is_keyed = info.config.params.sharding_method == models.ShardingMethod.CUSTOM
        self._is_keyed = bool(self.scope.marks) and is_keyed
        return info

    @property
    def _keyed(self) -> bool:
        if self._is_keyed is None:
            self.info()
        return bool(self._is_keyed)

    @property
    def _key(self) -> models.ShardKeyWithFallback | None:
        """Which shards a request is for; None: all of them."""
        return self.scope.shard_key if self._keyed else None

    def exists(self) -> bool:
        """Whether the collection exists."""
        return self.connection.call(partial(self.client.collection_exists, self.name))

    def make(self, settings: IndexSettings, **options: Any) -> None:
        """Make the collection if it does not exist, spread over a cluster as the settings say.

        With tenants in a cluster, its shards belong to those tenants that get none of their own.

        options: those of qdrant-client.
        """
        self.connection.call(partial(self._make, settings, options))
        if self.scope.marks and self._keyed and not sharding.states(self).get(SHARED):
            self.connection.call(partial(self.client.create_shard_key, self.name, SHARED))

    def _make(self, settings: IndexSettings, options: dict[str, Any]) -> None:
        if self.client.collection_exists(self.name):
            return
        keyed = bool(self.scope.marks) and sharding.has_keys(self.client)
        try:
            self.client.create_collection(
                self.name,
                shard_number=settings.shards,
                replication_factor=settings.replication,
                write_consistency_factor=settings.confirming_replicas,
                sharding_method=models.ShardingMethod.CUSTOM if keyed else None,
                **options,
            )
        except (RpcError, UnexpectedResponse):
            if not self.client.collection_exists(self.name):
                raise
            return  # another process was faster
        if settings.read_fan_out:
            fan_out = models.CollectionParamsDiff(read_fan_out_factor=settings.read_fan_out)
            self.client.update_collection(self.name, collection_params=fan_out)

    def within_limits(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which respects `limits`; repeated if they change meanwhile."""
        known = self.limits
        try:
            return work()
        except IndexRefusedError:
            self.info()
            if self.limits == known:
                raise
            return work()

    def ask(self, method: str, message: Any) -> Any:
        """The result of a call of `Connection.points`."""
        rpc = getattr(self.connection.points, method)
        timeout_s = min(self._timeout_s, self.connection.call_s)
        metadata = self.connection.metadata
        message = self.scope.message(message, keyed=self._keyed)
        return self.connection.call(
            partial(rpc, message, timeout=timeout_s, metadata=metadata), spread=True
        ).result

    def scroll(
        self, where: models.Filter, fields: Sequence[str] | bool = True, page: int = PAGE
    ) -> Iterator[dict[str, Any]]:
        """The payloads of all points that match, streamed."""
        offset: Any = None
        while True:
            points, offset = self.within_limits(partial(self._page, where, fields, page, offset))
            for point in points:
                yield self.scope.told(point.payload)
            if offset is None:
                return

    def scroll_over_rest(self, where: models.Filter) -> Iterator[dict[str, Any]]:
        """`scroll` over REST: only there payloads have their keys in order."""
        offset: Any = None
        while True:
            page = self.within_limits(partial(self._page_over_rest, where, offset))
            for point in page.points:
                yield self.scope.told(point.payload)
            offset = page.next_page_offset
            if offset is None:
                return

    def _page_over_rest(self, where: models.Filter, offset: Any) -> Any:
        limit = min(PAGE, self.limits.points)
        request = models.ScrollRequest(
            filter=self.scope.filter(where),
            limit=limit,
            offset=offset,
            with_payload=True,
            shard_key=self._key,
        )
        read = self.client.http.points_api.scroll_points
        read = partial(read, self.name, self.connection.consistency, scroll_request=request)
        return self.connection.call(read).result

    def page(
        self, where: grpc.Filter, fields: Sequence[str], limit: int, start: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The payloads of some matching points from one on, and the id that comes after them."""
        points, following = self._page(where, fields, limit, start)
        found = [self.scope.told(one.payload) for one in points]
        return found, None if following is None else str(following)

    def ordered(
        self, where: models.Filter, order: models.OrderBy, limit: int
    ) -> list[dict[str, Any]]:
        """The payloads of up to `limit` matching points, in an order."""

        def read() -> list[dict[str, Any]]:
            points, _ = self._page(where, True, limit, None, order_by=order)
            return [self.scope.told(one.payload) for one in points]

        return self.within_limits(read)

    def _page(
        self,
        where: models.Filter | grpc.Filter,
        fields: Sequence[str] | bool,
        page: int,
        offset: Any,
        **options: Any,
    ) -> tuple[list[models.Record], Any]:
        own: Callable[[Any], Any] = (
            self.scope.message_filter if isinstance(where, grpc.Filter) else self.scope.filter
        )
        read = partial(
            self.client.scroll,
            self.name,
            own(where),
            limit=min(page, self.limits.points),
            offset=offset,
            consistency=self.connection.consistency,
            shard_key_selector=self._key,
            with_payload=fields if isinstance(fields, bool) else list(fields),
        )
        return self.connection.call(partial(read, **options))

    def count(self, where: models.Filter | None = None) -> int:
        """The number of matching points; if the server forbids counting, they are read."""
        return self.within_limits(partial(self._count, where or models.Filter()))

    def _count(self, where: models.Filter) -> int:
        if not self.limits.exact:
            return sum(1 for _ in self.scroll(where, fields=False))
        count = partial(self.client.count, self.name, self.scope.filter(where), exact=True)
        return self.connection.call(partial(count, shard_key_selector=self._key)).count

    def retrieve(self, ids: Sequence[Any], fields: Sequence[str], vector: str) -> list[Any]:
        """Points by id, with these fields of their payload and this vector."""
        found = []
        for some in batches(ids, min(PAGE, self.limits.read)):
            read = partial(self.client.retrieve, self.name, some, with_payload=list(fields))
            read = partial(read, with_vectors=[vector], consistency=self.connection.consistency)
            found += self.connection.call(partial(read, shard_key_selector=self._key))
        return found

    def query(self, requests: Sequence[models.QueryRequest]) -> list[Sequence[Any]]:
        """The points that each request finds; their payloads without marks."""
        own = [
            one.model_copy(update={"filter": self.scope.filter(one.filter), "shard_key": self._key})
            for one in requests
        ]
        ask = partial(self.client.query_batch_points, self.name, own)
        answers = [answer.points for answer in self.connection.call(ask)]
        for point in (one for found in answers for one in found):
            point.payload = self.scope.told(point.payload)
        return [*answers]

    def delete(self, points: Any) -> None:
        """Delete points durably: those with these ids, or those that match a filter."""
        if isinstance(points, models.Filter):
            points = self.scope.filter(points)
        delete = partial(self.client.delete, self.name, points, wait=True)
        self.connection.call(partial(delete, shard_key_selector=self._key))

    def delete_each(self, filters: Sequence[models.Filter]) -> None:
        """Delete the points that match one of the filters, in one request."""
        self.batch(
            [
                models.DeleteOperation(
                    delete=models.FilterSelector(filter=self.scope.filter(one), shard_key=self._key)
                )
                for one in filters
            ]
        )

    def upsert_and_delete(
        self, points: Sequence[models.PointStruct], gone: Sequence[models.ExtendedPointId]
    ) -> None:
        """Write points and delete others by id, in one request."""
        operations: list[Any] = []
        if points:
            new = models.PointsList(points=self._stamped(points), shard_key=self._key)
            operations.append(models.UpsertOperation(upsert=new))
        ids = models.PointIdsList(points=list(gone), shard_key=self._key)
        self.batch([*operations, models.DeleteOperation(delete=ids)])

    def batch(self, operations: Sequence[Any]) -> None:
        """Make some changes durably, in one request. They are not held to `scope`."""
        update = partial(self.client.batch_update_points, self.name, operations, wait=True)
        self.connection.call(update)

    def upsert(
        self, points: Sequence[models.PointStruct], update_filter: models.Filter | None = None
    ) -> None:
        """Write points durably, in one request if it may hold them.

        update_filter: what a point that exists has to match to be overwritten.
        """
        for some in batches(points, min(max(1, len(points)), self.limits.written)):
            write = partial(self.client.upsert, self.name, self._stamped(some), wait=True)
            self.connection.call(
                partial(write, update_filter=update_filter, shard_key_selector=self._key)
            )

    def insert(self, points: Sequence[models.PointStruct]) -> None:
        """Write points durably that do not exist; those that do stay as they are."""
        self.upsert(points, models.Filter(must=[models.HasIdCondition(has_id=[])]))

    def upsert_over_rest(
        self, points: Sequence[names.Point], update_filter: models.Filter | None
    ) -> None:
        """Write personas durably over REST, which keeps the order of payloads' keys."""
        operations = models.PointsBatch(
            batch=models.Batch(
                ids=[point.id for point in points],
                vectors=[point.vector.tolist() for point in points],
                payloads=[self.scope.stamped(point.payload) for point in points],
            ),
            update_filter=update_filter,
            shard_key=self._key,
        )
        write = partial(self.client.http.points_api.upsert_points, self.name, wait=True)
        self.connection.call(partial(write, point_insert_operations=operations))

    def _stamped(self, points: Sequence[models.PointStruct]) -> list[models.PointStruct]:
        if not self.scope.marks:
            return list(points)
        return [
            one.model_copy(update={"payload": self.scope.stamped(one.payload)}) for one in points
        ]

    def set_payload(self, payload: dict[str, Any], points: models.Filter) -> None:
        """Set fields of points durably."""
        change = partial(self.client.set_payload, self.name, payload, wait=True)
        where = self.scope.filter(points)
        self.connection.call(partial(change, points=where, shard_key_selector=self._key))

    def delete_payload(self, fields: Sequence[str], points: models.Filter) -> None:
        """Delete fields of points durably."""
        change = partial(self.client.delete_payload, self.name, list(fields), wait=True)
        where = self.scope.filter(points)
        self.connection.call(partial(change, points=where, shard_key_selector=self._key))

    def delete_vectors(self, vector: str, ids: Sequence[models.ExtendedPointId]) -> None:
        """Delete a vector of points durably."""
        for some in batches(ids, self.limits.written):
            delete = partial(self.client.delete_vectors, self.name, [vector], some, wait=True)
            self.connection.call(partial(delete, shard_key_selector=self._key))

    def index_fields(self, schema: Mapping[str, Any]) -> None:
        """Make payload indexes; one of another type is replaced."""
        for field, params in schema.items():
            self.connection.call(
                partial(self.client.create_payload_index, self.name, field, params, wait=True)
            )
