"""The worker's jobs on a Qdrant server, beside the interactions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from qdrant_client import models

from p4r_qdrant.users.contracts import Jobs
from p4r_qdrant.users.qdrant.collections import Collections, equals, point_id
from p4r_qdrant.users.records import Job, JobCounts, JobState


class ServerJobs(Jobs):
    """See `Jobs`."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def add(self, job: Job) -> None:
        """See `Jobs`."""
        self._collections.upsert(self._collections.records, [job_point(job)])

    def finish(self, job: Job) -> None:
        """See `Jobs`."""
        self._collections.delete(self._collections.records, _same(job))

    def update(self, job: Job) -> None:
        """See `Jobs`."""
        with self._collections.connection.translated():
            self._collections.client.set_payload(
                self._collections.records, _state(job), points=_same(job), wait=True
            )

    def due(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        due = models.FieldCondition(key="not_before", range=models.Range(lte=time.time()))
        return self._ordered([equals("state", "waiting"), due], limit, models.Direction.ASC)

    def failed(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        return self._ordered([equals("state", "failed")], limit, models.Direction.DESC)

    def _ordered(self, must: list[Any], limit: int, direction: models.Direction) -> list[Job]:
        order = models.OrderBy(key="number", direction=direction)
        with self._collections.connection.translated():
            page, _ = self._collections.client.scroll(
                self._collections.records, models.Filter(must=must), limit=limit, order_by=order
            )
        return [_job(one.payload or {}) for one in page]

    def counts(self) -> JobCounts:
        """See `Jobs`."""
        return {"waiting": self._count("waiting"), "failed": self._count("failed")}

    def _count(self, state: JobState) -> int:
        with self._collections.connection.translated():
            return self._collections.client.count(
                self._collections.records,
                models.Filter(must=[equals("state", state)]),
                exact=True,
            ).count

    def of_items(self) -> Iterator[Job]:
        """See `Jobs`."""
        return map(_job, self._collections.scroll(models.Filter(must=[equals("job", "item")])))


def job_point(job: Job) -> models.PointStruct:
    """The point of a job."""
    payload = {
        "kind": "job",
        "user_id": job.user_id,
        "job": job.kind,
        "key": job.key,
        "number": time.time_ns() // 1000,
        "version": _version(job),
        "body": dict(job.body),
        **_state(job),
    }
    return models.PointStruct(id=_job_id(job), payload=payload, vector={})


def _job_id(job: Job) -> str:
    return point_id(f"job {job.key}")


def _version(job: Job) -> str:
    """Tells a job from a newer one with the same key."""
    return point_id(json.dumps(dict(job.body), sort_keys=True))


def _same(job: Job) -> models.Filter:
    return models.Filter(
        must=[models.HasIdCondition(has_id=[_job_id(job)]), equals("version", _version(job))]
    )


def _state(job: Job) -> dict[str, Any]:
    return {
        "state": "failed" if job.failed else "waiting",
        "attempts": job.attempts,
        "not_before": job.not_before,
        "problem": job.problem,
    }


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
