"""The persona index on a Qdrant server or cluster.

Queries go over gRPC on raw stubs (`query.py` builds and reads the messages). Points are written
over REST: only there a payload keeps the order of its keys, in which people read it.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.grpc import PointsStub
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexUnavailableError,
    StorageFullError,
)
from p4r_qdrant.index import payload as names
from p4r_qdrant.index import query
from p4r_qdrant.index.base import IndexMetadata, IndexStats, PersonaIndex, whole_items
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.payload import Floats, Point
from p4r_qdrant.settings import IndexSettings, QdrantSettings, Settings

SCROLL_PAGE = 1000
"""Points one page of a scroll holds."""

NUMBERS_A_REQUEST = 500_000
"""Vector elements one request writes: 11 MB of JSON, beside the payloads; a server takes 32 MB."""

_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "qdrant.Points"}, {"service": "qdrant.Collections"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_CHANNEL = {
    "grpc.service_config": json.dumps(_RETRY),
    "grpc.enable_retries": 1,
    "grpc.max_receive_message_length": -1,
    # Unset, a server that was away for minutes is not found again for two more.
    "grpc.max_reconnect_backoff_ms": 1000,
}
_log = logging.getLogger(__name__)


class ServerIndex(PersonaIndex):
    """One collection of a Qdrant server: see `PersonaIndex` for what it does.

    Raises IndexUnavailableError where the server does not answer, AuthenticationError where it
    refuses the key, IndexMismatchError where the collection is not there or not ours.
    """

    def __init__(self, settings: Settings, made_with: IndexMetadata | None = None) -> None:
        super().__init__(settings.index.max_personas)
        self._settings = settings.qdrant
        self._collection = settings.qdrant.collection
        self._closed = False
        self.location = f"the collection {self._collection!r} on {settings.qdrant.url}"
        self._client = connect(settings.qdrant)
        # A channel of its own: qdrant-client runs every call of its channels through Python twice.
        self._channel = channel(settings.qdrant)
        key = settings.qdrant.api_key
        self._endpoint = query.Endpoint(
            PointsStub(self._channel),  # type: ignore[no-untyped-call]
            self._collection,
            (("api-key", key.get_secret_value()),) if key else (),
            settings.qdrant.timeout_s,
        )
        try:
            with self._translated():
                if made_with is not None:
                    self._create(settings.index, made_with)
                self.metadata, indexed = self._read_collection()
                if made_with is not None:
                    self._index_fields(settings.index, indexed)
                    self.repair()
        except BaseException:
            self.close()
            raise

    def stats(self) -> IndexStats:
        """Counts and settings, for people."""
        with self._translated():
            info = self._client.get_collection(self._collection)
            items = self._client.count(
                self._collection, models.Filter(must=[_equals(names.SLOT, 0)]), exact=True
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

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._closed = True
        self._channel.close()
        self._client.close()

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
            names.SLOT: number,
            names.UNSETTLED: number,
        }
        for field in schema.keys() - set(indexed):
            params = schema[field]
            self._client.create_payload_index(self._collection, field, params, wait=True)

    def _read_collection(self) -> tuple[IndexMetadata, Collection[str]]:
        """What the index was made with, and which fields have a payload index."""
        if not self._client.collection_exists(self._collection):
            raise IndexMismatchError(
                f"there is no collection {self._collection!r} on {self._settings.url}; "
                "make it with `p4r index`"
            )
        info = self._client.get_collection(self._collection)
        made = IndexMetadata.from_json(info.config.metadata, self.location)
        return made, info.payload_schema.keys()

    # -- what the engine gives ----------------------------------------------------------------

    def _best_points(
        self, vectors: Floats, candidates: list[list[str]], conditions: list[Condition]
    ) -> list[dict[str, tuple[float, str]]]:
        with self._translated():
            return query.best_points(
                self._endpoint, vectors, candidates, conditions, per_item=self.max_personas
            )

    def _nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[tuple[float, str, str]]:
        with self._translated():
            return query.nearest_points(self._endpoint, vector, limit, conditions)

    def _points(
        self, point_ids: Sequence[str], with_vectors: bool
    ) -> dict[str, tuple[dict[str, Any], Floats | None]]:
        with self._translated():
            return query.points(self._endpoint, point_ids, with_vectors)

    def _upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        for some in whole_items(points, NUMBERS_A_REQUEST // self.metadata.dimension):
            with self._translated():
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

    def _delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        older = _older(older_than)
        with self._translated():
            self._client.delete(
                self._collection,
                models.Filter(must=[_of_items(item_ids), *([older] if older else [])]),
                wait=True,
            )

    def _clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        own = [_of_items(item_ids), _equals(names.GENERATION, generation)]
        marked = models.Filter(must=[*own, _equals(names.UNSETTLED, 1)])
        with self._translated():
            self._client.delete_payload(self._collection, [names.UNSETTLED], marked, wait=True)

    def _payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        place = {item_id: position for position, item_id in enumerate(item_ids)}
        found = self._scroll(models.Filter(must=[_of_items(item_ids)]), fields)
        return sorted(found, key=lambda one: (place[one[names.ITEM_ID]], one[names.SLOT]))

    def _item_ids(self) -> Iterator[str]:
        first = models.Filter(must=[_equals(names.SLOT, 0)])
        for found in self._scroll(first, [names.ITEM_ID]):
            yield found[names.ITEM_ID]

    def _unsettled(self) -> list[str]:
        marked = models.Filter(must=[_equals(names.UNSETTLED, 1)])
        return sorted({one[names.ITEM_ID] for one in self._scroll(marked, [names.ITEM_ID])})

    def _scroll(
        self, condition: models.Filter, fields: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        offset = None
        while True:
            with self._translated():
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever qdrant-client raises, as one of our errors in one sentence."""
        if self._closed:
            raise IndexUnavailableError(f"{self.location} is closed; open the index again")
        try:
            yield
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            details = (error.details() or "") if isinstance(error, grpc.Call) else str(error)
            raise self._error(code, details) from None
        except UnexpectedResponse as error:
            code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}.get(
                error.status_code or 0, str(error.status_code)
            )
            raise self._error(code, error.content.decode(errors="replace")) from None
        except ResponseHandlingException as error:
            timed_out = "timed out" in str(error)
            raise self._error(
                "DEADLINE_EXCEEDED" if timed_out else "UNAVAILABLE", str(error)
            ) from None

    def _error(self, code: str, details: str) -> Exception:
        url = self._settings.url
        _log.debug("Qdrant answered %s: %s", code, details)
        details = " ".join(details.split())[:300]
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return AuthenticationError(
                f"Qdrant on {url} refused the API key for this; check P4R_QDRANT__API_KEY"
            )
        if "No space left" in details or "disk is full" in details.lower():
            return StorageFullError(f"Qdrant on {url} has no disk space left; free some, run again")
        if code == "DEADLINE_EXCEEDED":
            return IndexUnavailableError(
                f"Qdrant on {url} did not answer within {self._settings.timeout_s:g} s "
                "(P4R_QDRANT__TIMEOUT_S)"
            )
        if code == "UNAVAILABLE":
            return IndexUnavailableError(
                f"Qdrant cannot be reached on {url} (gRPC port {self._settings.grpc_port}); "
                "check that it runs and P4R_QDRANT__URL and P4R_QDRANT__GRPC_PORT"
            )
        if code == "NOT_FOUND":
            return IndexMismatchError(f"{self.location} is gone; make it again with `p4r index`")
        return IndexUnavailableError(f"Qdrant on {url} failed ({code}): {details}")


def connect(settings: QdrantSettings) -> QdrantClient:
    """A client as the settings want it."""
    with warnings.catch_warnings():
        # The settings have already refused a key that would travel unprotected.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return QdrantClient(
            url=settings.url,
            grpc_port=settings.grpc_port,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            prefer_grpc=True,
            timeout=math.ceil(settings.timeout_s),
            check_compatibility=False,
            grpc_options=_channel_options(settings),
            trust_env=not _is_plain(settings),
        )


def _is_plain(settings: QdrantSettings) -> bool:
    return (settings.url or "").lower().startswith("http:")


def _channel_options(settings: QdrantSettings) -> dict[str, Any]:
    # What is not encrypted goes where the settings say and through no proxy of the environment.
    return _CHANNEL | ({"grpc.enable_http_proxy": 0} if _is_plain(settings) else {})


def channel(settings: QdrantSettings) -> grpc.Channel:
    """A gRPC channel for raw stubs."""
    parts = urlsplit(settings.url or "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    target = f"{host}:{settings.grpc_port}"
    options = list(_channel_options(settings).items())
    if parts.scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(target, options)


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
