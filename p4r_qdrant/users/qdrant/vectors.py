"""The vectors of interactions and users on a Qdrant server, for one version of the index."""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.grpc import GetPoints, PointId
from qdrant_client.grpc import WithPayloadSelector as Payload

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.server.queries import plain
from p4r_qdrant.records import Interaction
from p4r_qdrant.users.contracts import UserVectors
from p4r_qdrant.users.qdrant.collections import Collections, equals
from p4r_qdrant.users.records import OtherVersion, StoredInteraction

MAX_CACHED = 10_000
"""Vectors of interactions that are kept in memory: of 1024 dimensions they take 40 MB."""


class ServerVectors(UserVectors):
    """See `UserVectors`."""

    stores_users = True

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._vectors = collections.vectors
        self._name = self._vectors.name
        self._cache = _Cache()

    def attach(self, some: Sequence[StoredInteraction]) -> list[StoredInteraction]:
        """See `UserVectors`. What was read or written lately is not read again."""
        known = {one.key: self._cache.get(one) for one in some if one.text}
        missing = [one for one in some if one.text and known[one.key] is None]
        if missing:
            ids = [self._collections.interaction_id(one) for one in missing]
            points = self._vectors.retrieve(ids, ["text"], "text")
            held: dict[Any, Any] = {one.id: (one.payload, one.vector) for one in points}
            for one in missing:
                payload, vectors = held.get(self._collections.interaction_id(one), ({}, None))
                if payload.get("text") == one.text_hash:
                    known[one.key] = np.array(vectors["text"], dtype=np.float32)
        encoded = [one.encoded(known.get(one.key)) for one in some]
        self._cache.add(encoded)
        return encoded

    def put(self, encoded: Sequence[StoredInteraction]) -> None:
        """See `UserVectors`."""
        if points := self._interaction_points(encoded):
            self._vectors.upsert(points)
            self._cache.add(encoded)

    def put_user(
        self, user_id: str, vector: UserVector | None, encoded: Sequence[StoredInteraction] = ()
    ) -> None:
        """See `UserVectors`."""
        points = self._interaction_points(encoded)
        if vector is not None:
            self._vectors.upsert([*points, self._user_point(user_id, vector)])
        else:
            self._vectors.upsert_and_delete(points, [self._collections.user_id(user_id)])
        self._cache.add(encoded)

    def get(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """See `UserVectors`. One read for all of them."""
        owner = {self._collections.user_id(user_id): user_id for user_id in user_ids}
        points = self._read(list(owner))
        return {owner[one.id.uuid]: _user_vector(one) for one in points}

    def _read(self, point_ids: Sequence[str]) -> Sequence[Any]:
        found: list[Any] = []
        for some in batches(point_ids, self._vectors.limits.read):
            message = GetPoints(
                collection_name=self._name,
                ids=[PointId(uuid=one) for one in some],
                with_payload=Payload(enable=True),
            )
            found += self._collections.readable.ask("Get", message)
        return found

    def erase(self, user_id: str) -> None:
        """See `UserVectors`."""
        self._cache.erase(user_id)
        self._vectors.delete(_of_user(user_id))

    def invalidate(self, user_id: str, versions: Sequence[OtherVersion]) -> None:
        """See `UserVectors`."""
        for version in versions:
            if not self._collections.delete_elsewhere(
                version.name, [self._collections.user_id(user_id)]
            ):
                self._collections.unregister(version)

    def erase_elsewhere(self, user_id: str) -> None:
        """See `UserVectors`."""
        for name in self._collections.elsewhere():
            self._collections.delete_elsewhere(name, _of_user(user_id))

    def _interaction_points(self, encoded: Sequence[StoredInteraction]) -> list[models.PointStruct]:
        return [
            models.PointStruct(
                id=self._collections.interaction_id(one),
                payload={"kind": "interaction", "user_id": one.user_id, "text": one.text_hash},
                vector={"text": one.vector.tolist()},
            )
            for one in encoded
            if one.vector is not None
        ]

    def _user_point(self, user_id: str, vector: UserVector) -> models.PointStruct:
        history = vector.interactions
        payload = {
            "kind": "user",
            "user_id": user_id,
            "weights": vector.weights.tolist(),
            "items": [one.item_id for one in history],
            "titles": [one.title for one in history],
            "timestamps": [one.timestamp for one in history],
            "history": b64encode(vector.embeddings.astype("<f4").tobytes()).decode(),
        }
        named: Any = {"text": vector.vector.tolist()}
        return models.PointStruct(
            id=self._collections.user_id(user_id), payload=payload, vector=named
        )


class _Cache:
    """The newest vectors of interactions, by text: a changed text has no vector. Thread-safe."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[str, str, Floats]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, one: StoredInteraction) -> Floats | None:
        with self._lock:
            _, text_hash, vector = self._held.get(one.key, ("", "", None))
        return vector if text_hash == one.text_hash else None

    def add(self, some: Sequence[StoredInteraction]) -> None:
        with self._lock:
            for one in some:
                if one.vector is not None:
                    self._held[one.key] = one.user_id, one.text_hash, one.vector
                    self._held.move_to_end(one.key)
            while len(self._held) > MAX_CACHED:
                self._held.popitem(last=False)

    def erase(self, user_id: str) -> None:
        with self._lock:
            for key in [key for key, (owner, _, _) in self._held.items() if owner == user_id]:
                del self._held[key]


def _of_user(user_id: str) -> models.Filter:
    return models.Filter(must=[equals("user_id", user_id)])


def _user_vector(point: Any) -> UserVector:
    payload = {name: plain(value) for name, value in point.payload.items()}
    history = [
        Interaction(item_id, int(at), title=title)
        for item_id, at, title in zip(
            payload["items"], payload["timestamps"], payload["titles"], strict=True
        )
    ]
    embeddings = np.frombuffer(b64decode(payload["history"]), "<f4").reshape(len(history), -1)
    weights = np.array(payload["weights"], dtype=np.float32)
    return UserVector(weights @ embeddings, tuple(history), embeddings, weights)
