"""The worker's jobs on a Qdrant server, beside the interactions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from p4r_qdrant.users.contracts import Jobs
from p4r_qdrant.users.qdrant.collections import PAGE, Collections, equals, stamp_of
from p4r_qdrant.users.records import Job, JobCounts, JobState


class ServerJobs(Jobs):
    """See `Jobs`."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._records = collections.records

    def add(self, job: Job) -> None:
        """See `Jobs`."""
        self._records.upsert([job_point(job, self._collections)])

    def load(self, jobs: Sequence[Job]) -> None:
        """See `Jobs`. Numbers stand for times, so they grow within one call, too."""
        points = [job_point(job, self._collections) for job in jobs]
        first = time.time_ns() // 1000
        for number, point in enumerate(points, start=first):
            point.payload = {**(point.payload or {}), "number": number}
        self._records.insert(points)

    def finish(self, job: Job) -> None:
        """See `Jobs`."""
        self._records.delete(self._same(job))

    def update(self, job: Job) -> None:
        """See `Jobs`."""
        self._records.set_payload(_state(job), self._same(job))

    def replace_body(self, job: Job, body: Mapping[str, Any]) -> None:
        """See `Jobs`."""
        changed = {"body": dict(body), "version": _version(replace(job, body=body))}
        self._records.set_payload(changed, self._same(job))

    def _same(self, job: Job) -> models.Filter:
        own = models.HasIdCondition(has_id=[_job_id(job, self._collections)])
        return models.Filter(must=[own, equals("version", _version(job))])

    def due(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        due = models.FieldCondition(key="not_before", range=models.Range(lte=time.time()))
        return self._ordered([equals("state", "waiting"), due], limit, models.Direction.ASC)

    def failed(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        return self._ordered([equals("state", "failed")], limit, models.Direction.DESC)

    def _ordered(self, must: list[Any], limit: int, direction: models.Direction) -> list[Job]:
        order = models.OrderBy(key="number", direction=direction)
        return [_job(one) for one in self._records.ordered(models.Filter(must=must), order, limit)]

    def counts(self) -> JobCounts:
        """See `Jobs`."""
        return {"waiting": self._count("waiting"), "failed": self._count("failed")}

    def _count(self, state: JobState) -> int:
        return self._records.count(models.Filter(must=[equals("state", state)]))

    def all(self) -> Iterator[Job]:
        """See `Jobs`. Qdrant pages an order by the number to begin with, which several may have."""
        last, known = None, set[str]()
        while True:
            page = self._numbered(last, len(known) + PAGE)
            fresh = [one for one in page if one["key"] not in known]
            yield from map(_job, fresh)
            if not fresh:
                return
            last = fresh[-1]["number"]
            known = {one["key"] for one in page if one["number"] == last}

    def _numbered(self, first: int | None, limit: int) -> list[dict[str, Any]]:
        order = models.OrderBy(key="number", start_from=first)
        return self._records.ordered(models.Filter(must=[equals("kind", "job")]), order, limit)

    def of_items(self) -> Iterator[Job]:
        """See `Jobs`."""
        of_items = models.Filter(must=[equals("job", "item")])
        return map(_job, self._records.scroll(of_items, page=PAGE))


def job_point(job: Job, collections: Collections) -> models.PointStruct:
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
    return models.PointStruct(id=_job_id(job, collections), payload=payload, vector={})


def _job_id(job: Job, collections: Collections) -> str:
    return collections.point_id(f"job {job.key}")


def _version(job: Job) -> str:
    """Tells a job from a newer one with the same key."""
    return stamp_of(json.dumps(dict(job.body), sort_keys=True))


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
