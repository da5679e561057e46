"""Users on a Qdrant server: the collection `<collection>-interactions`.

an interaction   vector `text`: e_uj; its texts, and what became of them, in the payload
a user           vector `text`: h_u; `history`: the e_uj it is made of, in one multivector, so
that one read brings a known user whole, reasons included
a job            no vector
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from qdrant_client import models
from qdrant_client.grpc import GetPoints, PointId, PointsStub
from qdrant_client.grpc import WithPayloadSelector as Payload
from qdrant_client.grpc import WithVectorsSelector as Vectors
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from p4r_qdrant.encoder import Floats, UserVector
from p4r_qdrant.errors import IndexMismatchError, IndexUnavailableError
from p4r_qdrant.index.connection import channel, connect
from p4r_qdrant.index.query import plain
from p4r_qdrant.records import Interaction
from p4r_qdrant.service.users.store import Job, KnownUser, StoredInteraction, UserStore
from p4r_qdrant.settings import Settings

PAGE = 500
_SPACE = uuid.UUID("6d1f5c9e-3f0a-4a54-9e2c-0b8f5a7c2d11")


class ServerUsers(UserStore):
    """One collection. See UserStore."""

    def __init__(self, settings: Settings, dimension: int) -> None:
        super().__init__(settings.history)
        self._settings = settings.qdrant
        self._name = f"{settings.qdrant.collection}-interactions"
        self._client = connect(settings.qdrant)
        self._channel = channel(settings.qdrant)
        self._stub: Any = PointsStub(self._channel)  # type: ignore[no-untyped-call]
        # The stub reads for the reranking path: its key, and no longer than a rerank may take.
        key = settings.service.qdrant_read_key or settings.qdrant.api_key
        self._metadata = (("api-key", key.get_secret_value()),) if key else ()
        deadline_s = settings.service.deadline_ms / 1000
        self._read_timeout_s = min(settings.qdrant.timeout_s, deadline_s)
        try:
            with self._translated():
                self._make(dimension, settings)
        except BaseException:
            self.close()
            raise

    def _make(self, dimension: int, settings: Settings) -> None:
        if not self._client.collection_exists(self._name):
            wide = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
            many = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            try:
                self._client.create_collection(
                    self._name,
                    vectors_config={
                        "text": wide,
                        "history": wide.model_copy(update={"multivector_config": many}),
                    },
                    hnsw_config=models.HnswConfigDiff(m=0),  # looked up, never searched
                    shard_number=settings.index.shards,
                    replication_factor=settings.index.replication,
                    on_disk_payload=True,
                )
            except (UnexpectedResponse, grpc.RpcError):
                if not self._client.collection_exists(self._name):  # else: another was faster
                    raise
        info = self._client.get_collection(self._name)
        vectors = info.config.params.vectors
        width = vectors["text"].size if isinstance(vectors, Mapping) else None
        if width != dimension:
            raise IndexMismatchError(
                f"the collection {self._name!r} on {self._settings.url} holds users for an encoder "
                f"of {width} dimensions, not {dimension}; take it out, or name another collection"
            )
        keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
        number = models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=False, range=True
        )
        schema: dict[str, Any] = {
            "user_id": keyword.model_copy(update={"is_tenant": True}),
            "kind": keyword,
            "state": keyword,
            "job": keyword,
            "timestamp": number,
            "number": number,
        }
        for name in schema.keys() - info.payload_schema.keys():
            self._client.create_payload_index(self._name, name, schema[name], wait=True)

    # -- writing ------------------------------------------------------------------------------

    def enqueue(self, job: Job) -> None:
        """See UserStore."""
        self._upsert([_job_point(job)])

    def finish(self, job: Job) -> None:
        """See UserStore."""
        same = [models.HasIdCondition(has_id=[_job_id(job)]), _equals("version", _version(job))]
        with self._translated():
            self._client.delete(self._name, models.Filter(must=same), wait=True)

    def _erase(self, user_id: str) -> int:
        with self._translated():
            count = self._client.count(self._name, _of_user(user_id), exact=True).count
            of_user = models.Filter(must=[_equals("user_id", user_id)])
            self._client.delete(self._name, of_user, wait=True)
        return count

    def _item_jobs(self) -> Iterator[Job]:
        where, offset = models.Filter(must=[_equals("job", "item")]), None
        while True:
            with self._translated():
                page, offset = self._client.scroll(self._name, where, limit=PAGE, offset=offset)
            for one in page:
                yield _job(one.payload or {})
            if offset is None:
                return

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
            **_known(one),
        }
        point = models.PointStruct(
            id=_interaction_id(one), payload=payload, vector=_vectors(text=one.vector)
        )
        self._upsert([point, *([_job_point(job)] if job else [])])

    def _amend(self, one: StoredInteraction) -> None:
        point_id = _interaction_id(one)
        operations: list[Any] = []
        if one.vector is not None:
            vectors = models.PointVectors(id=point_id, vector=_vectors(text=one.vector))
            operations.append(
                models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=[vectors]))
            )
        of_point = models.Filter(must=[models.HasIdCondition(has_id=[point_id])])
        payload = models.SetPayload(payload=_known(one), filter=of_point)
        operations.append(models.SetPayloadOperation(set_payload=payload))
        with self._translated():
            try:
                self._client.batch_update_points(self._name, operations, wait=True)
            except (grpc.RpcError, UnexpectedResponse):
                if self.get(one) is not None:  # else it was erased meanwhile, and stays so
                    raise

    def _amend_job(self, job: Job) -> None:
        same = [models.HasIdCondition(has_id=[_job_id(job)]), _equals("version", _version(job))]
        with self._translated():
            self._client.set_payload(
                self._name, _job_state(job), points=models.Filter(must=same), wait=True
            )

    def _put_user(
        self,
        user_id: str,
        recent: Sequence[StoredInteraction],
        vector: UserVector | None,
        fingerprint: str,
    ) -> None:
        point_id = user_point_id(user_id)
        if not recent:
            with self._translated():
                self._client.delete(self._name, [point_id], wait=True)
            return
        told = vector.interactions if vector else ()
        payload = {
            "kind": "user",
            "user_id": user_id,
            "fingerprint": fingerprint if vector else "",
            "weights": vector.weights.tolist() if vector else [],
            "items": [one.item_id for one in told],
            "titles": [one.title for one in told],
            "timestamps": [one.timestamp for one in told],
        }
        vectors = _vectors(text=vector.vector, history=vector.embeddings) if vector else _vectors()
        self._upsert([models.PointStruct(id=point_id, payload=payload, vector=vectors)])

    def _upsert(self, points: Sequence[models.PointStruct]) -> None:
        with self._translated():
            self._client.upsert(self._name, list(points), wait=True)

    # -- reading ------------------------------------------------------------------------------

    def known(self, user_ids: Sequence[str], fingerprint: str) -> dict[str, KnownUser]:
        """See UserStore; one read for all of them."""
        owner = {user_point_id(user_id): user_id for user_id in user_ids}
        message = GetPoints(
            collection_name=self._name,
            ids=[PointId(uuid=one) for one in owner],
            with_payload=Payload(enable=True),
            with_vectors=Vectors(enable=True),
        )
        with self._translated():
            points = self._stub.Get(
                message, timeout=self._read_timeout_s, metadata=self._metadata
            ).result
        found = (_known_user(owner[one.id.uuid], one, fingerprint) for one in points)
        return {one.user_id: one for one in found}

    def get(self, like: StoredInteraction) -> StoredInteraction | None:
        """See UserStore."""
        with self._translated():
            found = self._client.retrieve(
                self._name, [_interaction_id(like)], with_payload=True, with_vectors=["text"]
            )
        return _stored(found[0]) if found else None

    def recent(self, user_id: str) -> list[StoredInteraction]:
        """See UserStore."""
        # Of equal times the larger item id is the newer one, as everywhere: read all of them.
        limit = self.length
        while True:
            page, _ = self._page(user_id, limit, with_vectors=["text"])
            found = sorted(
                map(_stored, page), key=lambda one: (one.timestamp, one.item_id), reverse=True
            )
            cut = len(found) == limit and found[-1].timestamp == found[self.length - 1].timestamp
            if not cut or limit > self.length:
                return found[: self.length]
            limit += PAGE

    def interactions(self, user_id: str) -> Iterator[StoredInteraction]:
        """See UserStore."""
        offset = None
        where = _of_user(user_id)
        while True:
            with self._translated():
                page, offset = self._client.scroll(
                    self._name, where, limit=PAGE, offset=offset, with_payload=True
                )
            yield from map(_stored, page)
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
        with self._translated():
            page, _ = self._client.scroll(
                self._name, models.Filter(must=must), limit=limit, order_by=order
            )
        return [_job(one.payload or {}) for one in page]

    def job_counts(self) -> dict[str, int]:
        """See UserStore."""
        with self._translated():
            return {
                state: self._client.count(
                    self._name, models.Filter(must=[_equals("state", state)]), exact=True
                ).count
                for state in ("waiting", "failed")
            }

    def close(self) -> None:
        """See UserStore."""
        self._channel.close()
        self._client.close()

    def _page(self, user_id: str, limit: int, with_vectors: Any) -> Any:
        newest = models.OrderBy(key="timestamp", direction=models.Direction.DESC)
        with self._translated():
            return self._client.scroll(
                self._name,
                _of_user(user_id),
                limit=limit,
                order_by=newest,
                with_payload=True,
                with_vectors=with_vectors,
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            raise self._error(code) from None
        except UnexpectedResponse as error:
            raise self._error(str(error.status_code)) from None
        except ResponseHandlingException as error:
            raise self._error(type(error.source).__name__) from None

    def _error(self, code: str) -> Exception:
        return IndexUnavailableError(
            f"the collection {self._name!r} on {self._settings.url} cannot be used ({code})"
        )


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
    return str(uuid.uuid5(_SPACE, repr(sorted(job.body.items()))))


def _known(one: StoredInteraction) -> dict[str, Any]:
    aspects = None if one.aspects is None else dict(one.aspects)
    return {"aspects": aspects, "fingerprint": one.fingerprint}


def _vectors(**named: Floats | None) -> dict[str, Any]:
    return {name: rows.tolist() for name, rows in named.items() if rows is not None}


def _stored(point: Any) -> StoredInteraction:
    payload = {**(point.payload or {})}
    del payload["kind"]
    given = (point.vector or {}).get("text") if isinstance(point.vector, Mapping) else None
    vector = None if given is None else np.array(given, dtype=np.float32)
    return StoredInteraction(**payload, vector=vector)


def _known_user(user_id: str, point: Any, fingerprint: str) -> KnownUser:
    payload = {name: plain(value) for name, value in point.payload.items()}
    if payload["fingerprint"] != fingerprint or not payload["items"]:
        return KnownUser(user_id, None)
    named = point.vectors.vectors.vectors
    vector = np.array(named["text"].dense.data or named["text"].data, dtype=np.float32)
    rows = [one.data for one in named["history"].multi_dense.vectors]
    embeddings = np.array(rows or named["history"].data, dtype=np.float32)
    told = [
        Interaction(item_id, int(at), title=title)
        for item_id, at, title in zip(
            payload["items"], payload["timestamps"], payload["titles"], strict=True
        )
    ]
    weights = np.array(payload["weights"], dtype=np.float32)
    return KnownUser(
        user_id, UserVector(vector, tuple(told), embeddings.reshape(len(told), -1), weights)
    )


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
