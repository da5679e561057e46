"""Users on a Qdrant server.

`<collection>-interactions` holds what users did and what is to be done, without vectors:

    an interaction   its texts, and what became of them, in the payload
    a job

`<version>-users` holds the vectors made with the encoder of that version of the index:

    an interaction   vector `text`: e_uj, and the hash of what was encoded
    a user           vector `text`: h_u, for a query to name; in the payload the e_uj it is made of,
                     as base64 of float32, for to read them as vectors takes 0.1 ms each
"""

from __future__ import annotations

import json
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import grpc
import numpy as np
from qdrant_client import models
from qdrant_client.grpc import GetPoints, PointId, PointsStub
from qdrant_client.grpc import WithPayloadSelector as Payload
from qdrant_client.http.exceptions import UnexpectedResponse

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import IndexMismatchError, IndexUnavailableError
from p4r_qdrant.index.engine import StoredVector
from p4r_qdrant.index.server.connection import Connection, channel
from p4r_qdrant.index.server.queries import plain
from p4r_qdrant.records import Interaction
from p4r_qdrant.settings import HistorySettings, QdrantSettings, Settings
from p4r_qdrant.users.records import Job, StoredInteraction, StoredUser
from p4r_qdrant.users.store import UserStore

VECTORS_OF = "-users"
"""Ends the name of the collection with the user vectors of a version."""
PAGE = 500
PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Between attempts to reach a collection that is being made."""
_SPACE = uuid.UUID("6d1f5c9e-3f0a-4a54-9e2c-0b8f5a7c2d11")
_KEYWORD = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
_TENANT = _KEYWORD.model_copy(update={"is_tenant": True})
_NUMBER = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True)
_RECORD_FIELDS: dict[str, Any] = {
    "user_id": _TENANT,
    **dict.fromkeys(("kind", "state", "job"), _KEYWORD),
    **dict.fromkeys(("timestamp", "number"), _NUMBER),
}


class ServerUsers(UserStore):
    """Two collections. See UserStore."""

    def __init__(
        self, settings: Settings, history: HistorySettings, version: str, dimension: int
    ) -> None:
        super().__init__(history)
        self._settings = settings.qdrant
        self._name = _records(settings.qdrant)
        self._vectors = f"{version}{VECTORS_OF}"
        self._connection = Connection(
            settings.qdrant, f"the collection {self._name!r} on {settings.qdrant.url}"
        )
        self._client = self._connection.client
        self._channel = channel(settings.qdrant)
        self._stub: Any = PointsStub(self._channel)  # type: ignore[no-untyped-call]
        # The stub reads for the reranking path: its key, and no longer than a rerank may take.
        key = settings.service.qdrant_read_key or settings.qdrant.api_key
        self._metadata = (("api-key", key.get_secret_value()),) if key else ()
        deadline_s = settings.service.deadline_ms / 1000
        self._read_timeout_s = min(settings.qdrant.timeout_s, deadline_s)
        try:
            with self._connection.translated():
                self._make(dimension, settings)
        except BaseException:
            self.close()
            raise

    def _make(self, dimension: int, settings: Settings) -> None:
        wide = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        for name, vectors, schema in (
            (self._name, {}, _RECORD_FIELDS),
            (self._vectors, {"text": wide}, {"user_id": _TENANT}),
        ):
            if not self._client.collection_exists(name):
                try:
                    self._client.create_collection(
                        name,
                        vectors_config=vectors,
                        hnsw_config=models.HnswConfigDiff(m=0),  # looked up, never searched
                        shard_number=settings.index.shards,
                        replication_factor=settings.index.replication,
                        on_disk_payload=True,
                    )
                except (UnexpectedResponse, grpc.RpcError):
                    if not self._client.collection_exists(name):  # else: another was faster
                        raise
            info = self._client.get_collection(name)
            for field in schema.keys() - info.payload_schema.keys():
                self._client.create_payload_index(name, field, schema[field], wait=True)
        made = info.config.params.vectors  # of the second
        width = made["text"].size if isinstance(made, Mapping) else None
        if width != dimension:
            raise IndexMismatchError(
                f"the collection {self._vectors!r} on {self._settings.url} holds users for an "
                f"encoder of {width} dimensions, not {dimension}; delete it, it is made again"
            )

    # -- writing ------------------------------------------------------------------------------

    def enqueue(self, job: Job) -> None:
        """See UserStore."""
        self._upsert(self._name, [_job_point(job)])

    def finish(self, job: Job) -> None:
        """See UserStore."""
        same = [models.HasIdCondition(has_id=[_job_id(job)]), _equals("version", _version(job))]
        with self._connection.translated():
            self._client.delete(self._name, models.Filter(must=same), wait=True)

    def _erase(self, user_id: str) -> int:
        with self._connection.translated():
            count = self._client.count(self._name, _of_user(user_id), exact=True).count
            of_user = models.Filter(must=[_equals("user_id", user_id)])
            self._client.delete(self._name, of_user, wait=True)
        for name in [self._vectors, *self._elsewhere()]:
            self._delete_from(name, of_user)
        return count

    def _item_jobs(self) -> Iterator[Job]:
        return map(_job, self._scroll(models.Filter(must=[_equals("job", "item")])))

    def _put(self, one: StoredInteraction, job: Job | None) -> None:
        payload = {
            "kind": "interaction",
            "user_id": one.user_id,
            "item_id": one.item_id,
            "timestamp": one.timestamp,
            "rating": one.rating,
            "title": one.title,
            "summary": one.summary,
            "review_title": one.review_title,
            "review_text": one.review_text,
            "aspects": None if one.aspects is None else dict(one.aspects),
        }
        point = models.PointStruct(id=_interaction_id(one), payload=payload, vector={})
        self._upsert(self._name, [point, *([_job_point(job)] if job else [])])

    def _amend(self, one: StoredInteraction) -> None:
        of_point = models.Filter(must=[models.HasIdCondition(has_id=[_interaction_id(one)])])
        aspects = None if one.aspects is None else dict(one.aspects)
        with self._connection.translated():
            self._client.set_payload(self._name, {"aspects": aspects}, points=of_point, wait=True)

    def _put_vectors(self, some: Sequence[StoredInteraction]) -> None:
        points = [
            models.PointStruct(
                id=_interaction_id(one),
                payload={"kind": "interaction", "user_id": one.user_id, "text": one.text_hash},
                vector={"text": one.vector.tolist()},
            )
            for one in some
            if one.vector is not None
        ]
        if points:
            self._upsert(self._vectors, points)

    def _amend_job(self, job: Job) -> None:
        same = [models.HasIdCondition(has_id=[_job_id(job)]), _equals("version", _version(job))]
        with self._connection.translated():
            self._client.set_payload(
                self._name, _job_state(job), points=models.Filter(must=same), wait=True
            )

    def _put_user(self, user_id: str, vector: UserVector | None) -> None:
        point_id = user_point_id(user_id)
        if vector is None:
            with self._connection.translated():
                self._client.delete(self._vectors, [point_id], wait=True)
            return
        told = vector.interactions
        payload = {
            "kind": "user",
            "user_id": user_id,
            "weights": vector.weights.tolist(),
            "items": [one.item_id for one in told],
            "titles": [one.title for one in told],
            "timestamps": [one.timestamp for one in told],
            "history": b64encode(vector.embeddings.astype("<f4").tobytes()).decode(),
        }
        named: Any = {"text": vector.vector.tolist()}
        self._upsert(
            self._vectors, [models.PointStruct(id=point_id, payload=payload, vector=named)]
        )

    def _forget(self, user_id: str) -> None:
        of_user = models.Filter(must=[_equals("user_id", user_id)])
        with self._connection.translated():
            self._client.delete(self._vectors, of_user, wait=True)

    def _forget_elsewhere(self, user_id: str) -> None:
        for name in self._elsewhere():
            self._delete_from(name, [user_point_id(user_id)])

    def _elsewhere(self) -> list[str]:
        """The collections of the other versions' user vectors, as of now.

        Those of an index whose name goes on with a dash are among them: they lose a vector that is
        made again when it is needed.
        """
        with self._connection.translated():
            found = [one.name for one in self._client.get_collections().collections]
        begin = f"{self._settings.collection}-"
        ours = (one for one in found if one.startswith(begin) and one.endswith(VECTORS_OF))
        return [one for one in ours if one != self._vectors]

    def _delete_from(self, name: str, points: Any) -> None:
        """Delete from a collection that may be dropped just now, or be in the making."""
        for pause_s in (*PAUSES_S, None):
            try:
                with suppress(IndexMismatchError), self._connection.translated():
                    self._client.delete(name, points, wait=True)
                return
            except IndexUnavailableError:
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _upsert(self, name: str, points: Sequence[models.PointStruct]) -> None:
        with self._connection.translated():
            self._client.upsert(name, list(points), wait=True)

    # -- reading ------------------------------------------------------------------------------

    def vectors(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """See UserStore; one read for all of them."""
        owner = {user_point_id(user_id): user_id for user_id in user_ids}
        with self._connection.translated():
            points = self._read(list(owner))
        return {owner[one.id.uuid]: _user_vector(one) for one in points}

    def stored(self, user_id: str) -> StoredUser:
        """See UserStore."""
        point_id = user_point_id(user_id)

        def told() -> UserVector:
            with self._connection.translated():
                points = self._read([point_id])
            if not points:
                raise IndexMismatchError(f"{self._vectors!r} has no vector of the user")
            return _user_vector(points[0])

        return StoredUser(StoredVector(self._vectors, point_id, "text"), told)

    def _read(self, point_ids: Sequence[str]) -> Sequence[Any]:
        message = GetPoints(
            collection_name=self._vectors,
            ids=[PointId(uuid=one) for one in point_ids],
            with_payload=Payload(enable=True),
        )
        answer = self._stub.Get(message, timeout=self._read_timeout_s, metadata=self._metadata)
        return answer.result  # type: ignore[no-any-return]

    def user_ids(self) -> Iterator[str]:
        """See UserStore. The ids that were told are kept: some 100 bytes each."""
        told = set[str]()
        for payload in self._scroll(models.Filter(must=[_equals("kind", "interaction")])):
            user_id = payload["user_id"]
            if user_id not in told:
                told.add(user_id)
                yield user_id

    def get(self, like: StoredInteraction) -> StoredInteraction | None:
        """See UserStore."""
        with self._connection.translated():
            found = self._client.retrieve(self._name, [_interaction_id(like)], with_payload=True)
        return self._with_vectors(_stored(one.payload or {}) for one in found)[0] if found else None

    def recent(self, user_id: str) -> list[StoredInteraction]:
        """See UserStore."""
        # Of equal times the larger item id is the newer one, as everywhere: read all of them.
        newest = models.OrderBy(key="timestamp", direction=models.Direction.DESC)
        limit = self.length
        while True:
            with self._connection.translated():
                page, _ = self._client.scroll(
                    self._name, _of_user(user_id), limit=limit, order_by=newest
                )
            found = sorted(
                (_stored(one.payload or {}) for one in page),
                key=lambda one: (one.timestamp, one.item_id),
                reverse=True,
            )
            cut = len(found) == limit and found[-1].timestamp == found[self.length - 1].timestamp
            if not cut or limit > self.length:
                return self._with_vectors(found[: self.length])
            limit += PAGE

    def _with_vectors(self, some: Iterable[StoredInteraction]) -> list[StoredInteraction]:
        """With the vectors of what is told now."""
        some = list(some)
        if not some:
            return []
        with self._connection.translated():
            points = self._client.retrieve(
                self._vectors,
                [_interaction_id(one) for one in some],
                with_payload=["text"],
                with_vectors=["text"],
            )
        held: dict[Any, Any] = {one.id: (one.payload, one.vector) for one in points}
        encoded = []
        for one in some:
            payload, vectors = held.get(_interaction_id(one), ({}, None))
            if payload.get("text") == one.text_hash:
                one = one.encoded(np.array(vectors["text"], dtype=np.float32))
            encoded.append(one)
        return encoded

    def interactions(self, user_id: str) -> Iterator[StoredInteraction]:
        """See UserStore."""
        return map(_stored, self._scroll(_of_user(user_id)))

    def _scroll(self, where: models.Filter) -> Iterator[dict[str, Any]]:
        offset = None
        while True:
            with self._connection.translated():
                page, offset = self._client.scroll(self._name, where, limit=PAGE, offset=offset)
            for one in page:
                yield one.payload or {}
            if offset is None:
                return

    def seen(self, user_id: str) -> set[str]:
        """See UserStore."""
        return {one.item_id for one in self.interactions(user_id)}

    def jobs(self, limit: int) -> list[Job]:
        """See UserStore."""
        due = models.FieldCondition(key="not_before", range=models.Range(lte=time.time()))
        return self._jobs([_equals("state", "waiting"), due], limit, models.Direction.ASC)

    def failed_jobs(self, limit: int) -> list[Job]:
        """See UserStore."""
        return self._jobs([_equals("state", "failed")], limit, models.Direction.DESC)

    def _jobs(self, must: list[Any], limit: int, direction: models.Direction) -> list[Job]:
        order = models.OrderBy(key="number", direction=direction)
        with self._connection.translated():
            page, _ = self._client.scroll(
                self._name, models.Filter(must=must), limit=limit, order_by=order
            )
        return [_job(one.payload or {}) for one in page]

    def job_counts(self) -> dict[str, int]:
        """See UserStore."""
        with self._connection.translated():
            return {
                state: self._client.count(
                    self._name, models.Filter(must=[_equals("state", state)]), exact=True
                ).count
                for state in ("waiting", "failed")
            }

    def close(self) -> None:
        """See UserStore."""
        self._channel.close()
        self._connection.close()


def is_there(settings: QdrantSettings) -> bool:
    """Whether a service has kept users on this server. Raises IndexUnavailableError."""
    server = Connection(settings, f"the index {settings.collection!r} on {settings.url}")
    with closing(server), server.translated():
        return server.client.collection_exists(_records(settings))


def drop_vectors(settings: QdrantSettings, version: str) -> None:
    """Delete the user vectors of a version of the index. Raises IndexUnavailableError."""
    name = f"{version}{VECTORS_OF}"
    server = Connection(settings, f"the collection {name!r} on {settings.url}")
    with closing(server), server.translated():
        server.client.delete_collection(name)


def _records(settings: QdrantSettings) -> str:
    return f"{settings.collection}-interactions"


def _equals(name: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def _of_user(user_id: str) -> models.Filter:
    return models.Filter(must=[_equals("user_id", user_id), _equals("kind", "interaction")])


def _interaction_id(one: StoredInteraction) -> str:
    return str(uuid.UUID(one.key))


def user_point_id(user_id: str) -> str:
    """The point that holds a user's vector."""
    return str(uuid.uuid5(_SPACE, f"user {user_id}"))


def _job_id(job: Job) -> str:
    return str(uuid.uuid5(_SPACE, f"job {job.key}"))


def _version(job: Job) -> str:
    """What tells a job from a newer one with its key."""
    return str(uuid.uuid5(_SPACE, json.dumps(dict(job.body), sort_keys=True)))


def _stored(payload: Mapping[str, Any]) -> StoredInteraction:
    return StoredInteraction(**{name: payload[name] for name in payload.keys() - {"kind"}})


def _user_vector(point: Any) -> UserVector:
    payload = {name: plain(value) for name, value in point.payload.items()}
    told = [
        Interaction(item_id, int(at), title=title)
        for item_id, at, title in zip(
            payload["items"], payload["timestamps"], payload["titles"], strict=True
        )
    ]
    embeddings = np.frombuffer(b64decode(payload["history"]), "<f4").reshape(len(told), -1)
    weights = np.array(payload["weights"], dtype=np.float32)
    return UserVector(weights @ embeddings, tuple(told), embeddings, weights)


def _job_state(job: Job) -> dict[str, Any]:
    return {
        "state": "failed" if job.failed else "waiting",
        "attempts": job.attempts,
        "not_before": job.not_before,
        "problem": job.problem,
    }


def _job_point(job: Job) -> models.PointStruct:
    payload = {
        "kind": "job",
        "user_id": job.user_id,
        "job": job.kind,
        "key": job.key,
        "number": time.time_ns() // 1000,
        "version": _version(job),
        "body": dict(job.body),
        **_job_state(job),
    }
    return models.PointStruct(id=_job_id(job), payload=payload, vector={})


def _job(payload: Mapping[str, Any]) -> Job:
    return Job(
        payload["key"],
        payload["job"],
        payload["user_id"],
        payload["body"],
        payload["attempts"],
        payload["not_before"],
        payload["problem"],
        payload["state"] == "failed",
    )
