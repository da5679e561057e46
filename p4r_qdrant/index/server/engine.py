"""The persona index on a Qdrant server or cluster.

Queries go over gRPC on raw stubs (`queries.py` builds and reads the messages). Points are written
over REST: only there a payload keeps the order of its keys, in which people read it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection as Ids
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

from qdrant_client import models

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexRefusedError,
    InputError,
)
from p4r_qdrant.index import filters
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import batches, whole_items
from p4r_qdrant.index.columns import ColumnSets
from p4r_qdrant.index.engine import (
    BestPoints,
    IndexStats,
    ItemPage,
    NearPoint,
    StoredPoints,
)
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.metadata import PROJECT, IndexMetadata
from p4r_qdrant.index.payload import Point, in_order
from p4r_qdrant.index.query import scores_of
from p4r_qdrant.index.server import purging, queries, schema, sharding
from p4r_qdrant.index.server.cluster import described
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import ServerColumnSets
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.register import FOR_TENANTS, register_of
from p4r_qdrant.settings import IndexSettings, Settings

NUMBERS_A_REQUEST = 500_000
"""Vector elements of one request: 11 MB of JSON without payloads; a server accepts 32 MB."""

ITEMS_A_REQUEST = 256
"""Most items that one request deletes, each up to its own generation."""

_log = logging.getLogger(__name__)


class ServerEngine:
    """An engine in one collection of a Qdrant server; see `Engine`.

    Raises IndexUnavailableError if the server does not answer, AuthenticationError if it refuses
    the key, IndexMismatchError if the collection does not exist or is not of this project,
    IndexRefusedError if its strict mode forbids what is asked.
    """

    def __init__(
        self, settings: Settings, name: str, made_with: IndexMetadata | None = None
    ) -> None:
        """made_with: metadata of a new index, which is made if the collection does not exist."""
        self.fields: Mapping[str, str] = {}
        self.max_personas = settings.index.max_personas
        self.waits = True
        self._settings = settings.index
        whose = f"the tenant {settings.index.owner!r} in " if settings.index.owner else ""
        self.location = f"{whose}the collection {name!r} on {settings.qdrant.url}"
        self._connection = Connection(settings.qdrant, self.location)
        self._client = self._connection.client
        self._register = register_of(settings, self._connection)
        self._collection = Collection(
            self._connection, name, settings.qdrant.timeout_s, self._register.scope
        )
        self.tenant = self._register.scope.tenant
        self.columns: ColumnSets = ServerColumnSets(self._collection, settings)
        try:
            if made_with is not None:
                self._make(settings.index, made_with)
            self.metadata, self.datatype = self._read_collection()
        except BaseException:
            self.close()
            raise

    def stats(self) -> IndexStats:
        """See `Engine`."""
        # Over REST, which writes points: the state shows problems of both ports.
        over_rest = self._client.http.collections_api.get_collection
        self._connection.call(partial(over_rest, self._collection.name))
        info = self._collection.info()
        items = self._collection.count(models.Filter(must=[_equals(names.POSITION, 0)]))
        personas = self._collection.count()
        vectors = info.config.params.vectors
        details = {
            "filters on": filters.described(self.fields),
            "transport": "gRPC" if self._connection.transport == "grpc" else "REST alone, slower",
            "status": str(info.status.value),
            "segments": str(info.segments_count),
            "shards": str(info.config.params.shard_number),
            "replication": str(info.config.params.replication_factor),
            "hnsw": "off" if info.config.hnsw_config.m == 0 else f"m={info.config.hnsw_config.m}",
        }
        if wrong := described(self._connection.node_states()):
            details["nodes"] = wrong
        if info.config.quantization_config is not None:
            details["quantization"] = type(info.config.quantization_config).__name__
        if isinstance(vectors, models.VectorParams):
            details["vectors"] = (
                f"{(vectors.datatype or models.Datatype.FLOAT32).value}, "
                f"{'on disk' if vectors.on_disk else 'in memory'}"
            )
        return IndexStats("server", self.location, personas, items, self.metadata, details)

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._connection.close()

    def point_id(self, item_id: str, position: int) -> str:
        """See `Engine`."""
        return self._collection.scope.point_id(item_id, position)

    # -- what the index is made of ------------------------------------------------------------

    def _make(self, settings: IndexSettings, made_with: IndexMetadata) -> None:
        notes = made_with.to_json()
        shared = {"project": PROJECT, FOR_TENANTS: True} if self.tenant else notes
        self._collection.make(settings, metadata=shared, **schema.collection(settings, made_with))
        if not self.tenant:
            return
        if not (self._collection.info().config.metadata or {}).get(FOR_TENANTS):
            raise IndexMismatchError(
                f"{self.location} was made without tenants: unset P4R_INDEX__TENANTS, or choose "
                "another name (P4R_QDRANT__COLLECTION)"
            )
        if not self._register.read(self._collection.name):
            self._register.note(self._collection.name, notes)

    def complete(self) -> None:
        """See `Engine`. Payload indexes that are missing, and HNSW links that are wanted now."""
        info = self._collection.info()
        self._warn_of_spread(info.config.params)
        held = {field: one.data_type.value for field, one in info.payload_schema.items()}
        declared = self._settings.field_types
        missing = {
            field: params
            for field, params in schema.payload_indexes(self._settings).items()
            if field not in held or held[field] != declared.get(field, held[field])
        }
        by_word = missing.keys() & {*schema.WORDS} - {*declared}
        words = {field: missing.pop(field) for field in by_word}
        try:
            self._collection.index_fields(missing)
            with suppress(IndexRefusedError):  # too many of them: the dashboard works without
                self._collection.index_fields(words)
            if self._settings.hnsw and info.config.hnsw_config.m == 0:
                links = models.HnswConfigDiff(m=16)
                self._connection.call(
                    partial(
                        self._client.update_collection, self._collection.name, hnsw_config=links
                    )
                )
        except AuthenticationError:
            _log.warning(
                "%s has no payload index on %s, and the API key may not make one: run `p4r index` "
                "with a key that may",
                self.location,
                ", ".join(missing) or "vectors (HNSW)",
            )
        self.read_fields()

    def _warn_of_spread(self, made: models.CollectionParams) -> None:
        """Warn of a collection that is spread over a cluster in another way than asked for."""
        wanted = {"shards": made.shard_number, "replication": made.replication_factor}
        for name in sorted(wanted.keys() & self._settings.model_fields_set):
            held, asked = wanted[name] or 1, getattr(self._settings, name)
            if held < asked:
                _log.warning(
                    "%s has %s=%d, less than P4R_INDEX__%s=%d, which holds for new collections: "
                    "copy the index with `p4r copy`, or unset it",
                    self.location,
                    name,
                    held,
                    name.upper(),
                    asked,
                )
        asked = self._settings.replication
        if 1 < asked <= (made.replication_factor or 1):
            with suppress(AuthenticationError):  # the key may not read this
                held = sharding.fewest_replicas(self._collection)
                if held < asked:
                    _log.warning(
                        "%s has a shard with %d of P4R_INDEX__REPLICATION=%d replicas, because the "
                        "cluster has or had fewer nodes: add nodes, and put replicas on them "
                        "(replicate_shard), or set a smaller number",
                        self.location,
                        held,
                        asked,
                    )

    def read_fields(self) -> Mapping[str, str]:
        """See `Engine`. These are the fields with a payload index, whoever made it."""
        self.fields = schema.filterable(self._collection.info(), self._collection.scope)
        return self.fields

    def _read_collection(self) -> tuple[IndexMetadata, str]:
        """What the index was made with, and its datatype."""
        if not self._collection.exists():
            raise IndexMismatchError(
                f"there is no persona index: {self.location} is missing; make it with `p4r index`"
            )
        info = self._collection.info()
        notes = self._register.read(self._collection.name)
        made = IndexMetadata.from_json(notes, self.location)
        vectors = info.config.params.vectors
        datatype = vectors.datatype if isinstance(vectors, models.VectorParams) else None
        self.fields = schema.filterable(info, self._collection.scope)
        return made, (datatype or models.Datatype.FLOAT32).value

    # -- what the engine gives ----------------------------------------------------------------

    def best_points(
        self,
        vectors: Floats,
        candidates: list[list[str]],
        conditions: list[Condition],
        top: int | None = None,
    ) -> list[BestPoints]:
        """See `Engine`."""
        search = partial(queries.best_points, self._collection, vectors, candidates, conditions)
        return self._collection.within_limits(partial(search, per_item=self.max_personas, top=top))

    def best_scores(self, vectors: Floats, item_ids: list[str]) -> Floats:
        """See `Engine`."""
        return scores_of(self.best_points(vectors, [item_ids] * len(vectors), []), item_ids)

    def nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[NearPoint]:
        """See `Engine`."""
        return self._collection.within_limits(
            partial(queries.nearest_points, self._collection, vector, limit, conditions)
        )

    def state(self) -> int | None:
        """See `Engine`: other processes may write."""
        return None

    def points(self, point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        """See `Engine`."""
        return self._collection.within_limits(
            partial(queries.points, self._collection, point_ids, with_vectors)
        )

    def write_metadata(self, metadata: IndexMetadata) -> None:
        """See `Engine`."""
        known = self.metadata.to_json()
        changed = {field: one for field, one in metadata.to_json().items() if known[field] != one}
        if changed:
            self._register.note(self._collection.name, changed)
        self.metadata = metadata

    def read_metadata(self) -> None:
        """See `Engine`."""
        self.metadata, _ = self._read_collection()

    def replacing(self) -> AbstractContextManager[object]:
        """See `Engine`. Other processes write too, so a lock would not help."""
        return nullcontext()

    def discard_derived(self) -> None:
        """See `Engine`. Nothing is derived."""

    def optimize(self) -> None:
        """See `Engine`. The server does so by itself."""

    def purge(self) -> list[str]:
        """See `Engine`."""
        return purging.purge([self._collection])

    def upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        """See `Engine`. An item is split only where the server takes no request so large."""
        for some in whole_items(points, self._points_a_request()):
            self._collection.within_limits(partial(self._upsert, some, older_than))

    def _points_a_request(self) -> int:
        return min(
            max(1, NUMBERS_A_REQUEST // self.metadata.dimension), self._collection.limits.written
        )

    def _upsert(self, points: Sequence[Point], older_than: int | None) -> None:
        for some in batches(points, max(self._points_a_request(), 1)):
            newer = models.Filter(must=_older(older_than)) if older_than else None
            self._collection.upsert_over_rest(some, newer)

    def delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        """See `Engine`."""
        for of_items in self._of_items(item_ids):
            self._collection.delete(models.Filter(must=[of_items, *_older(older_than)]))

    def delete_unchanged(self, written: Mapping[str, int]) -> None:
        """See `Engine`. One request for many items."""
        for some in batches(written.items(), ITEMS_A_REQUEST):
            self._collection.delete_each(
                [
                    models.Filter(must=[_equals(names.ITEM_ID, item_id), *_older(generation + 1)])
                    for item_id, generation in some
                ]
            )

    def clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        """See `Engine`."""
        marked = [_equals(names.GENERATION, generation), _equals(names.UNSETTLED, 1)]
        for of_items in self._of_items(item_ids):
            self._collection.delete_payload(
                [names.UNSETTLED], models.Filter(must=[of_items, *marked])
            )

    def payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """See `Engine`."""
        place = {item_id: position for position, item_id in enumerate(item_ids)}
        found = [
            payload
            for of_items in self._of_items(item_ids)
            for payload in self._scroll([of_items], fields)
        ]
        return sorted(found, key=lambda one: (place[one[names.ITEM_ID]], one[names.POSITION]))

    def points_of(self, item_ids: Sequence[str]) -> list[Point]:
        """See `Engine`. Payloads come over REST, vectors over gRPC: as JSON they take ten times as
        long. A point that is written in between is left out.
        """
        payloads = {
            self.point_id(payload[names.ITEM_ID], payload[names.POSITION]): payload
            for of_items in self._of_items(item_ids)
            for payload in self._collection.scroll_over_rest(models.Filter(must=[of_items]))
        }
        read = partial(queries.points, self._collection, list(payloads), True, names.GENERATION)
        vectors = self._collection.within_limits(read)
        return in_order(
            item_ids,
            (
                Point(one, vector, payloads[one])
                for one, (now, vector) in vectors.items()
                if vector is not None and now[names.GENERATION] == payloads[one][names.GENERATION]
            ),
        )

    def item_ids(self) -> Iterator[str]:
        """See `Engine`."""
        for found in self._scroll([_equals(names.POSITION, 0)], [names.ITEM_ID]):
            yield found[names.ITEM_ID]

    def item_page(
        self, conditions: list[Condition], words: str, limit: int, start: str | None
    ) -> ItemPage:
        """See `Engine`. Raises InputError if the titles have no index of words."""
        if words and self.read_fields().get(names.ITEM_TITLE) != "text":
            raise InputError(
                f"{self.location} has no index of the words of titles, which P4R_INDEX__FIELDS or "
                "the server's strict mode prevents; leave the words out"
            )
        return self._collection.within_limits(
            partial(queries.item_page, self._collection, conditions, words, limit, start)
        )

    def written(self) -> Iterator[tuple[str, int]]:
        """See `Engine`."""
        wanted = [names.ITEM_ID, names.GENERATION]
        for found in self._scroll([_equals(names.POSITION, 0)], wanted):
            yield found[names.ITEM_ID], found[names.GENERATION]

    def unsettled(self) -> list[str]:
        """See `Engine`."""
        marked = self._scroll([_equals(names.UNSETTLED, 1)], [names.ITEM_ID])
        return sorted({one[names.ITEM_ID] for one in marked})

    def _scroll(
        self, conditions: list[Any], fields: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        where = models.Filter(must=conditions)
        return self._collection.scroll(where, True if fields is None else fields)

    def _of_items(self, item_ids: Ids[str]) -> Iterator[models.FieldCondition]:
        """Conditions that together hold for the items, each with as many ids as are allowed."""
        for some in batches(item_ids, self._collection.limits.values):
            yield models.FieldCondition(key=names.ITEM_ID, match=models.MatchAny(any=some))


def _equals(field: str, value: str | int | bool) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _older(generation: int | None) -> list[Any]:
    if generation is None:
        return []
    return [models.FieldCondition(key=names.GENERATION, range=models.Range(lt=generation))]
