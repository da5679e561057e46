"""The two collections of users on a Qdrant server: how they are made, and shared calls."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

from qdrant_client import models

from p4r_qdrant.errors import IndexMismatchError, IndexUnavailableError
from p4r_qdrant.index.metadata import PROJECT
from p4r_qdrant.index.payload import TENANT
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.purging import purge
from p4r_qdrant.index.server.scope import TENANT_INDEX, Scope
from p4r_qdrant.settings import QdrantSettings, Settings
from p4r_qdrant.users.contracts import FORMAT
from p4r_qdrant.users.records import OtherVersion, StoredInteraction

VECTORS_OF = "-users"
"""Ends the name of the collection with the user vectors of a version."""
PAGE = 500
PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Pauses between attempts to reach a collection that another process is making."""
_SPACE = uuid.UUID("6d1f5c9e-3f0a-4a54-9e2c-0b8f5a7c2d11")
_KEYWORD = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
_TENANT = _KEYWORD.model_copy(update={"is_tenant": True})
_NUMBER = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True)
USERS_FORMAT = "users_format"
"""The field of the metadata of a collection with the number of its format."""
RECORD_INDEXES: dict[str, Any] = {
    "user_id": _TENANT,
    **dict.fromkeys(("kind", "state", "job", "version"), _KEYWORD),
    **dict.fromkeys(("timestamp", "number"), _NUMBER),
    "not_before": models.FloatIndexParams(type=models.FloatIndexType.FLOAT),
}
"""The payload indexes of the collection with interactions, jobs and versions."""
VECTOR_INDEXES: dict[str, Any] = {"user_id": _TENANT}
"""Those of a collection with user vectors."""
IS_VERSION = models.Filter(
    must=[models.FieldCondition(key="kind", match=models.MatchValue(value="version"))]
)


class Collections:
    """Names, connection, and the calls that interactions, vectors and jobs share.

    `records` is the collection of interactions and jobs, `vectors` that of the version's vectors,
    `readable` the same for reranking.
    """

    def __init__(self, settings: Settings, version: str, dimension: int) -> None:
        """Makes what does not exist. Raises IndexMismatchError for vectors of another width."""
        self._settings = settings.qdrant
        timeout_s = settings.qdrant.timeout_s
        self.connection = Connection(
            settings.qdrant, f"the collection {_records(settings.qdrant)!r} on {self._settings.url}"
        )
        self.client = self.connection.client
        self.scope = Scope.of(settings.index.owner)
        self.records = Collection(self.connection, _records(settings.qdrant), timeout_s, self.scope)
        self.vectors = Collection(self.connection, f"{version}{VECTORS_OF}", timeout_s, self.scope)
        try:
            self._make(dimension, settings)
            self._register()
            self.readable = self._readable(settings)
        except BaseException:
            self.connection.close()
            raise

    def _readable(self, settings: Settings) -> Collection:
        """`vectors` over another connection: with the key and the deadline of a rerank."""
        deadline_s = settings.service.deadline_ms / 1000
        reading = settings.qdrant.model_copy(
            update={
                "api_key": settings.service.qdrant_read_key or settings.qdrant.api_key,
                "timeout_s": min(settings.qdrant.timeout_s, deadline_s),
            }
        )
        name = self.vectors.name
        connection = Connection(reading, f"the collection {name!r} on {reading.url}")
        return Collection(connection, name, reading.timeout_s, self.scope)

    def _make(self, dimension: int, settings: Settings) -> None:
        wide = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        self._make_one(self.records, {}, RECORD_INDEXES, settings)
        info = self._make_one(self.vectors, {"text": wide}, VECTOR_INDEXES, settings)
        made = info.config.params.vectors
        width = made["text"].size if isinstance(made, Mapping) else None
        if width != dimension:
            raise IndexMismatchError(
                f"the collection {self.vectors.name!r} on {self._settings.url} holds users for an "
                f"encoder of {width} dimensions, not {dimension}; delete it, it is made again"
            )

    def _make_one(
        self,
        collection: Collection,
        vectors: dict[str, models.VectorParams],
        schema: Mapping[str, Any],
        settings: Settings,
    ) -> models.CollectionInfo:
        """Make a collection and its payload indexes, as far as they are missing."""
        name = collection.name

        collection.make(
            settings.index,
            vectors_config=vectors,
            hnsw_config=models.HnswConfigDiff(m=0),  # looked up, never searched
            on_disk_payload=True,
            metadata={USERS_FORMAT: FORMAT},
        )
        info = collection.info()
        number = (info.config.metadata or {}).get(USERS_FORMAT) or FORMAT
        if number > FORMAT:
            raise IndexMismatchError(
                f"the collection {name!r} on {self._settings.url} has format {number:g}, this "
                f"release reads format {FORMAT}; update {PROJECT}"
            )
        if self.scope.marks:
            schema = {**schema, "user_id": _KEYWORD, TENANT: TENANT_INDEX}
        missing = schema.keys() - info.payload_schema.keys()
        collection.index_fields({field: schema[field] for field in sorted(missing)})
        return info

    def _register(self) -> None:
        """Note which collections hold user vectors, so that a write finds them in one call.

        A version is registered after its collection exists and before a user is read for it.
        Whoever writes an interaction looks for versions afterwards. So either the writer finds
        the version, or the version finds the interaction.
        """
        known = {one["name"] for one in self.records.scroll(IS_VERSION)}
        # The others were made by releases that did not register them.
        missing = {self.vectors.name, *self.elsewhere()} - known
        points = [
            models.PointStruct(
                id=self._version_id(name),
                payload={"kind": "version", "name": name, "version": uuid.uuid4().hex},
                vector={},
            )
            for name in sorted(missing)
        ]
        if points:
            self.records.upsert(points)

    def unregister(self, version: OtherVersion) -> None:
        """Remove a version that is gone, unless it was made again meanwhile."""
        self.records.delete(
            models.Filter(
                must=[
                    models.HasIdCondition(has_id=[self._version_id(version.name)]),
                    equals("version", version.stamp),
                ]
            )
        )

    def point_id(self, what: str) -> str:
        """The id of a point, from what it holds."""
        return self.scope.uuid(_uuid(what))

    def interaction_id(self, one: StoredInteraction) -> str:
        """The point of an interaction, in both collections."""
        return self.scope.uuid(uuid.UUID(one.key))

    def user_id(self, user_id: str) -> str:
        """The point that holds the vector of a user."""
        return self.point_id(f"user {user_id}")

    def _version_id(self, name: str) -> str:
        return self.point_id(f"version {name}")

    def versions_in(self, points: Sequence[Any]) -> list[OtherVersion]:
        """The other versions among registered ones."""
        found = ((one.payload["name"], one.payload["version"]) for one in points)
        return [OtherVersion(*one) for one in found if one[0] != self.vectors.name]

    def purge(self) -> list[str]:
        """See `Storage`. The vectors of all versions are among them."""
        return purge([self.records, self.vectors, *map(self._other, self.elsewhere())])

    def _other(self, name: str) -> Collection:
        return Collection(self.connection, name, self._settings.timeout_s, self.scope)

    def close(self) -> None:
        """See `Storage`."""
        self.connection.close()
        self.readable.connection.close()

    def elsewhere(self) -> list[str]:
        """The collections of other versions' user vectors that exist now.

        Those of an index whose name continues ours with a dash are among them. They lose a vector
        that is made again when it is needed.
        """
        listed = self.connection.call(self.client.get_collections).collections
        found = [one.name for one in listed]
        begin = f"{self._settings.collection}-"
        ours = (one for one in found if one.startswith(begin) and one.endswith(VECTORS_OF))
        return [one for one in ours if one != self.vectors.name]

    def delete_elsewhere(self, name: str, points: Any) -> bool:
        """Delete from a collection that another process drops or makes. False if it is gone."""
        for pause_s in (*PAUSES_S, None):
            try:
                with suppress(IndexMismatchError):
                    self._other(name).delete(points)
                    return True
                return False
            except IndexUnavailableError:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        return False


def is_there(settings: Settings) -> bool:
    """Whether users are stored on this server. Raises IndexUnavailableError."""
    with _opened(settings, _records(settings.qdrant)) as records:
        if not records.exists():
            return False
        return not records.scope.marks or records.count() > records.count(IS_VERSION)


def drop_vectors(settings: Settings, version: str) -> None:
    """Delete the user vectors of a version of the index. Raises IndexUnavailableError."""
    with _opened(settings, f"{version}{VECTORS_OF}") as vectors:
        if not vectors.scope.marks:
            delete = partial(vectors.client.delete_collection, vectors.name)
            vectors.connection.call(delete)
        elif vectors.exists():
            vectors.delete(models.Filter())


def drop_records(settings: Settings) -> None:
    """Delete the interactions and jobs of a tenant. Raises IndexUnavailableError."""
    with _opened(settings, _records(settings.qdrant)) as records:
        if records.exists():
            records.delete(models.Filter())


@contextmanager
def _opened(settings: Settings, name: str) -> Iterator[Collection]:
    own = settings.qdrant
    server = Connection(own, f"the collection {name!r} on {own.url}")
    with closing(server):
        yield Collection(server, name, own.timeout_s, Scope.of(settings.index.owner))


def _records(settings: QdrantSettings) -> str:
    return f"{settings.collection}-interactions"


def equals(name: str, value: str) -> models.FieldCondition:
    """The condition that a field has a value."""
    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def stamp_of(text: str) -> str:
    """A short text that tells a text from others."""
    return str(_uuid(text))


def _uuid(text: str) -> uuid.UUID:
    return uuid.uuid5(_SPACE, text)
