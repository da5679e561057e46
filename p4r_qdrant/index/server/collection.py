"""One collection on a Qdrant server, in requests that its strict mode allows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from qdrant_client import grpc, models

from p4r_qdrant.errors import IndexRefusedError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.settings.index import IndexSettings

UNLIMITED = sys.maxsize
PAGE = 1000
"""The points of one page of a scroll, if strict mode allows so many."""

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
    """A collection of a connection. `limits` are from the last call of `info`.

    Every method waits for rate limits, and raises the errors of `Connection.call`.
    """

    def __init__(self, connection: Connection, name: str, timeout_s: float) -> None:
        self.connection = connection
        self.client = connection.client
        self.name = name
        self.limits = Limits()
        self._timeout_s = timeout_s

    def info(self) -> models.CollectionInfo:
        """The state of the collection."""
        info = self.connection.call(lambda: self.client.get_collection(self.name))
        self.limits = Limits.of(info, self._timeout_s)
        return info

    def create(self, settings: IndexSettings, **options: Any) -> None:
        """Make the collection, spread over a cluster as the settings say.

        options: those of qdrant-client. Raises what it raises: call it within `Connection.call`.
        """
        self.client.create_collection(
            self.name,
            shard_number=settings.shards,
            replication_factor=settings.replication,
            write_consistency_factor=settings.confirming_replicas,
            **options,
        )
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
                yield point.payload or {}
            if offset is None:
                return

    def scroll_over_rest(self, where: models.Filter) -> Iterator[dict[str, Any]]:
        """`scroll` over REST: only there payloads have their keys in order."""
        offset: Any = None
        while True:
            page = self.within_limits(partial(self._page_over_rest, where, offset))
            for point in page.points:
                yield point.payload or {}
            offset = page.next_page_offset
            if offset is None:
                return

    def _page_over_rest(self, where: models.Filter, offset: Any) -> Any:
        limit = min(PAGE, self.limits.points)
        request = models.ScrollRequest(filter=where, limit=limit, offset=offset, with_payload=True)
        read = self.client.http.points_api.scroll_points
        read = partial(read, self.name, self.connection.consistency, scroll_request=request)
        return self.connection.call(read).result

    def page(
        self, where: grpc.Filter, fields: Sequence[str], limit: int, start: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The payloads of some matching points from one on, and the id that comes after them."""
        points, following = self._page(where, fields, limit, start)
        return [one.payload or {} for one in points], None if following is None else str(following)

    def _page(
        self,
        where: models.Filter | grpc.Filter,
        fields: Sequence[str] | bool,
        page: int,
        offset: Any,
    ) -> tuple[list[models.Record], Any]:
        read = partial(
            self.client.scroll,
            self.name,
            where,
            limit=min(page, self.limits.points),
            offset=offset,
            consistency=self.connection.consistency,
        )
        return self.connection.call(
            partial(read, with_payload=fields if isinstance(fields, bool) else list(fields))
        )

    def count(self, where: models.Filter | None = None) -> int:
        """The number of matching points; if the server forbids counting, they are read."""
        return self.within_limits(partial(self._count, where or models.Filter()))

    def _count(self, where: models.Filter) -> int:
        if not self.limits.exact:
            return sum(1 for _ in self.scroll(where, fields=False))
        return self.connection.call(partial(self.client.count, self.name, where, exact=True)).count

    def retrieve(self, ids: Sequence[Any], fields: Sequence[str], vector: str) -> list[Any]:
        """Points by id, with these fields of their payload and this vector."""
        found = []
        for some in batches(ids, min(PAGE, self.limits.read)):
            read = partial(self.client.retrieve, self.name, some, with_payload=list(fields))
            read = partial(read, with_vectors=[vector], consistency=self.connection.consistency)
            found += self.connection.call(read)
        return found

    def delete(self, points: Any) -> None:
        """Delete points durably."""
        self.connection.call(partial(self.client.delete, self.name, points, wait=True))

    def upsert(self, points: Sequence[models.PointStruct]) -> None:
        """Write points durably, in one request if it may hold them."""
        for some in batches(points, min(max(1, len(points)), self.limits.written)):
            self.connection.call(partial(self.client.upsert, self.name, some, wait=True))

    def insert(self, points: Sequence[models.PointStruct]) -> None:
        """Write points durably that do not exist; those that do stay as they are."""
        nothing = models.Filter(must=[models.HasIdCondition(has_id=[])])
        for some in batches(points, min(max(1, len(points)), self.limits.written)):
            write = partial(self.client.upsert, self.name, some, wait=True)
            self.connection.call(partial(write, update_filter=nothing))

    def set_payload(self, payload: dict[str, Any], points: models.Filter) -> None:
        """Set fields of points durably."""
        self.connection.call(
            partial(self.client.set_payload, self.name, payload, points=points, wait=True)
        )

    def index_fields(self, schema: Mapping[str, Any]) -> None:
        """Make payload indexes; one of another type is replaced."""
        for field, params in schema.items():
            self.connection.call(
                partial(self.client.create_payload_index, self.name, field, params, wait=True)
            )
