"""The persona index on a Qdrant server or cluster.

Queries go over gRPC on raw stubs (`queries.py` builds and reads the messages). Points are written
over REST: only there a payload keeps the order of its keys, in which people read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
from qdrant_client import models
from qdrant_client.grpc import PointsStub

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index import payload as names
from p4r_qdrant.index.batching import whole_items
from p4r_qdrant.index.engine import (
    BestPoints,
    IndexStats,
    NearPoint,
    StoredPoints,
    StoredVector,
)
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point
from p4r_qdrant.index.server import lease, queries
from p4r_qdrant.index.server.connection import Connection, channel
from p4r_qdrant.settings import IndexSettings, Settings

WRITER = "writer"
"""Where a collection's metadata names its sole writer."""

SCROLL_PAGE = 1000
"""Points one page of a scroll holds."""

NUMBERS_A_REQUEST = 500_000
"""Vector elements one request writes: 11 MB of JSON, beside the payloads; a server takes 32 MB."""


class ServerEngine:
    """An engine in one collection of a Qdrant server; see `Engine`.

    Raises IndexUnavailableError if the server does not answer, AuthenticationError if it refuses
    the key, IndexMismatchError if the collection does not exist or is not of this project.
    """

    def __init__(
        self, settings: Settings, name: str, made_with: IndexMetadata | None = None
    ) -> None:
        """made_with: metadata of a new index, which is made if the collection does not exist."""
        self.max_personas = settings.index.max_personas
        self._collection = name
        self.location = f"the collection {name!r} on {settings.qdrant.url}"
        self._connection = Connection(settings.qdrant, self.location)
        self._client = self._connection.client
        # A channel of its own: qdrant-client runs every call of its channels through Python twice.
        self._channel = channel(settings.qdrant)
        key = settings.qdrant.api_key
        self._endpoint = queries.Endpoint(
            PointsStub(self._channel),  # type: ignore[no-untyped-call]
            self._collection,
            (("api-key", key.get_secret_value()),) if key else (),
            settings.qdrant.timeout_s,
        )
        try:
            with self._connection.translated():
                if made_with is not None:
                    self._create(settings.index, made_with)
                self.metadata, self.datatype, indexed = self._read_collection()
                if made_with is not None:
                    self._index_fields(settings.index, indexed)
        except BaseException:
            self.close()
            raise

    def stats(self) -> IndexStats:
        """See `Engine`."""
        with self._connection.translated():
            info = self._client.get_collection(self._collection)
            items = self._client.count(
                self._collection, models.Filter(must=[_equals(names.POSITION, 0)]), exact=True
            ).count
            personas = self._client.count(self._collection, exact=True).count
        vectors = info.config.params.vectors
        details = {
            "status": str(info.status.value),
            "segments": str(info.segments_count),
            "shards": str(info.config.params.shard_number),
            "replication": str(info.config.params.replication_factor),
            "hnsw": "off" if info.config.hnsw_config.m == 0 else f"m={info.config.hnsw_config.m}",
        }
        if info.config.quantization_config is not None:
            details["quantization"] = type(info.config.quantization_config).__name__
        if isinstance(vectors, models.VectorParams):
            details["vectors"] = (
                f"{(vectors.datatype or models.Datatype.FLOAT32).value}, "
                f"{'on disk' if vectors.on_disk else 'in memory'}"
            )
        return IndexStats("server", self.location, personas, items, self.metadata, details)

    def sole_writer(self) -> AbstractContextManager[None]:
        """See `PersonaIndex`. The collection's metadata names the writer."""
        return lease.held(self._read_writer, self._write_writer, self.location)

    def _read_writer(self) -> str:
        with self._connection.translated():
            stored = self._client.get_collection(self._collection).config.metadata or {}
        return str(stored.get(WRITER) or "")

    def _write_writer(self, writer: str) -> None:
        with self._connection.translated():
            self._client.update_collection(self._collection, metadata={WRITER: writer})

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._connection.close()
        self._channel.close()

    # -- what the index is made of ------------------------------------------------------------

    def _create(self, settings: IndexSettings, made_with: IndexMetadata) -> None:
        if self._client.collection_exists(self._collection):
            return
        try:
            self._client.create_collection(
                self._collection,
                vectors_config=models.VectorParams(
                    size=made_with.dimension,
                    distance=models.Distance.COSINE,
                    on_disk=settings.on_disk_vectors,
                    datatype=models.Datatype(settings.datatype),
                ),
                hnsw_config=None if settings.hnsw else models.HnswConfigDiff(m=0),
                quantization_config=_quantization(settings),
                shard_number=settings.shards,
                replication_factor=settings.replication,
                on_disk_payload=settings.on_disk_payload,
                metadata=made_with.to_json(),
            )
        except grpc.RpcError as error:
            if not self._client.collection_exists(self._collection):  # else: another was faster
                raise error

    def _index_fields(self, settings: IndexSettings, indexed: Collection[str]) -> None:
        """Make the payload indexes that are not there: all, or what a crash left to be made."""
        on_disk = settings.on_disk_vectors
        keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=on_disk)
        word = models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.WORD,
            lowercase=True,
            on_disk=on_disk,
        )
        number = models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=True, range=False, on_disk=on_disk
        )
        schema: dict[str, Any] = {
            names.ITEM_ID: keyword.model_copy(update={"is_tenant": True}),
            names.PERSONA_ID: keyword,
            names.CATEGORY: keyword,
            names.DOMAIN: keyword,
            names.NAME: word,
            names.ITEM_TITLE: word,
            names.POSITION: number,
            names.UNSETTLED: number,
        }
        for field in schema.keys() - set(indexed):
            params = schema[field]
            self._client.create_payload_index(self._collection, field, params, wait=True)

    def _read_collection(self) -> tuple[IndexMetadata, str, Collection[str]]:
        """What the index was made with, its datatype, and which fields have a payload index."""
        if not self._client.collection_exists(self._collection):
            raise IndexMismatchError(
                f"there is no persona index: {self.location} is missing; make it with `p4r index`"
            )
        info = self._client.get_collection(self._collection)
        made = IndexMetadata.from_json(info.config.metadata, self.location)
        vectors = info.config.params.vectors
        datatype = vectors.datatype if isinstance(vectors, models.VectorParams) else None
        return made, (datatype or models.Datatype.FLOAT32).value, info.payload_schema.keys()

    # -- what the engine gives ----------------------------------------------------------------

    def best_points(
        self, vectors: Floats, candidates: list[list[str]], conditions: list[Condition]
    ) -> list[BestPoints]:
        """See `Engine`."""
        with self._connection.translated():
            return queries.best_points(
                self._endpoint, vectors, candidates, conditions, per_item=self.max_personas
            )

    def best_points_of(
        self, user: StoredVector, candidates: list[str], conditions: list[Condition]
    ) -> BestPoints:
        """See `Engine`."""
        with self._connection.translated():
            return queries.best_points(
                self._endpoint, [user], [candidates], conditions, per_item=self.max_personas
            )[0]

    def nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[NearPoint]:
        """See `Engine`."""
        with self._connection.translated():
            return queries.nearest_points(self._endpoint, vector, limit, conditions)

    def points(self, point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        """See `Engine`."""
        with self._connection.translated():
            return queries.points(self._endpoint, point_ids, with_vectors)

    def write_metadata(self, metadata: IndexMetadata) -> None:
        """See `Engine`."""
        with self._connection.translated():
            self._client.update_collection(self._collection, metadata=metadata.to_json())
        self.metadata = metadata

    def replacing(self) -> AbstractContextManager[object]:
        """See `Engine`. Other processes write too, so a lock would not help."""
        return nullcontext()

    def discard_derived(self) -> None:
        """See `Engine`. Nothing is derived."""

    def optimize(self) -> None:
        """See `Engine`. The server does so by itself."""

    def upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        """See `Engine`."""
        for some in whole_items(points, NUMBERS_A_REQUEST // self.metadata.dimension):
            with self._connection.translated():
                self._client.http.points_api.upsert_points(
                    self._collection,
                    wait=True,
                    point_insert_operations=models.PointsBatch(
                        batch=models.Batch(
                            ids=[point.id for point in some],
                            vectors=[point.vector.tolist() for point in some],
                            payloads=[point.payload for point in some],
                        ),
                        update_filter=_older(older_than),
                    ),
                )

    def delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        """See `Engine`."""
        older = _older(older_than)
        with self._connection.translated():
            self._client.delete(
                self._collection,
                models.Filter(must=[_of_items(item_ids), *([older] if older else [])]),
                wait=True,
            )

    def clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        """See `Engine`."""
        own = [_of_items(item_ids), _equals(names.GENERATION, generation)]
        marked = models.Filter(must=[*own, _equals(names.UNSETTLED, 1)])
        with self._connection.translated():
            self._client.delete_payload(self._collection, [names.UNSETTLED], marked, wait=True)

    def payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """See `Engine`."""
        place = {item_id: position for position, item_id in enumerate(item_ids)}
        found = self._scroll(models.Filter(must=[_of_items(item_ids)]), fields)
        return sorted(found, key=lambda one: (place[one[names.ITEM_ID]], one[names.POSITION]))

    def item_ids(self) -> Iterator[str]:
        """See `Engine`."""
        first = models.Filter(must=[_equals(names.POSITION, 0)])
        for found in self._scroll(first, [names.ITEM_ID]):
            yield found[names.ITEM_ID]

    def unsettled(self) -> list[str]:
        """See `Engine`."""
        marked = models.Filter(must=[_equals(names.UNSETTLED, 1)])
        return sorted({one[names.ITEM_ID] for one in self._scroll(marked, [names.ITEM_ID])})

    def _scroll(
        self, condition: models.Filter, fields: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        offset = None
        while True:
            with self._connection.translated():
                page, offset = self._client.scroll(
                    self._collection,
                    condition,
                    limit=SCROLL_PAGE,
                    offset=offset,
                    with_payload=True if fields is None else list(fields),
                )
            for point in page:
                yield point.payload or {}
            if offset is None:
                return


def _quantization(settings: IndexSettings) -> models.QuantizationConfig | None:
    if settings.quantization == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, always_ram=settings.on_disk_vectors
            )
        )
    if settings.quantization == "binary":
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=settings.on_disk_vectors)
        )
    return None


def _equals(field: str, value: int | bool) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _of_items(item_ids: Sequence[str]) -> models.FieldCondition:
    return models.FieldCondition(key=names.ITEM_ID, match=models.MatchAny(any=list(item_ids)))


def _older(generation: int | None) -> models.Filter | None:
    if generation is None:
        return None
    older = models.FieldCondition(key=names.GENERATION, range=models.Range(lt=generation))
    return models.Filter(must=[older])
