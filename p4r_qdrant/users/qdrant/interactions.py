"""Interactions on a Qdrant server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qdrant_client import models

from p4r_qdrant.users.contracts import Interactions
from p4r_qdrant.users.qdrant.collections import IS_VERSION, PAGE, Collections, equals
from p4r_qdrant.users.qdrant.jobs import job_point
from p4r_qdrant.users.records import Job, OtherVersion, StoredInteraction

_NEWEST = models.OrderBy(key="timestamp", direction=models.Direction.DESC)


class ServerInteractions(Interactions):
    """See `Interactions`."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._records = collections.records

    def put(self, one: StoredInteraction, job: Job | None) -> None:
        """See `Interactions`."""
        job_points = [job_point(job, self._collections)] if job else []
        self._records.upsert([self._point(one), *job_points])

    def load(self, some: Sequence[StoredInteraction]) -> None:
        """See `Interactions`."""
        self._records.insert([self._point(one) for one in some])

    def _point(self, one: StoredInteraction) -> models.PointStruct:
        place = self._collections.interaction_id(one)
        return models.PointStruct(id=place, payload=_payload(one), vector={})

    def set_aspects(self, one: StoredInteraction) -> None:
        """See `Interactions`."""
        of_point = models.Filter(
            must=[models.HasIdCondition(has_id=[self._collections.interaction_id(one)])]
        )
        self._records.set_payload({"aspects": _aspects(one)}, of_point)

    def erase(self, user_id: str) -> int:
        """See `Interactions`."""
        count = self._records.count(_of_user(user_id))
        self._records.delete(models.Filter(must=[equals("user_id", user_id)]))
        return count

    def look_up(
        self, like: StoredInteraction, length: int
    ) -> tuple[StoredInteraction | None, list[StoredInteraction]]:
        """See `Interactions`."""
        same = models.Filter(
            must=[models.HasIdCondition(has_id=[self._collections.interaction_id(like)])]
        )
        found, newest = self._read(
            models.QueryRequest(filter=same, limit=1, with_payload=True),
            _newest(like.user_id, length),
        )
        held = _stored(found[0].payload) if found else None
        return held, self._cut(newest, like.user_id, length)

    def read_back(
        self, user_id: str, length: int
    ) -> tuple[list[StoredInteraction], Sequence[OtherVersion]]:
        """See `Interactions`."""
        newest, versions = self._read(
            _newest(user_id, length),
            models.QueryRequest(filter=IS_VERSION, limit=PAGE, with_payload=True),
        )
        return self._cut(newest, user_id, length), self._collections.versions_in(versions)

    def _read(self, *requests: models.QueryRequest) -> list[Sequence[Any]]:
        return self._records.within_limits(partial(self._batch, requests))

    def _batch(self, requests: Sequence[models.QueryRequest]) -> list[Sequence[Any]]:
        """What each request finds; what one request may not bring back comes in further pages."""
        found: list[list[Any]] = [[] for _ in requests]
        unread = list(range(len(requests)))
        while unread:
            pages = [self._page(requests[one], len(found[one])) for one in unread]
            answers = self._records.query(pages)
            for one, answer in zip(unread, answers, strict=True):
                found[one] += answer
            unread = [
                one
                for one, page, answer in zip(unread, pages, answers, strict=True)
                if len(answer) == page.limit and len(found[one]) < (requests[one].limit or 0)
            ]
        return [*found]

    def _page(self, request: models.QueryRequest, read: int) -> models.QueryRequest:
        limit = min((request.limit or 0) - read, self._records.limits.points)
        return request.model_copy(update={"offset": read or None, "limit": limit})

    def _cut(self, points: Sequence[Any], user_id: str, length: int) -> list[StoredInteraction]:
        """The newest `length` of a page; reads on if equal times were cut off.

        Of equal times the larger item id is newer, as everywhere, so all of them are needed.
        """
        limit = length
        while True:
            found = sorted(
                (_stored(one.payload) for one in points),
                key=lambda one: (one.timestamp, one.item_id),
                reverse=True,
            )
            is_cut = len(found) == limit and found[-1].timestamp == found[length - 1].timestamp
            if not is_cut or limit > length:
                return found[:length]
            limit += PAGE
            [points] = self._read(_newest(user_id, limit))

    def of(self, user_id: str) -> Iterator[StoredInteraction]:
        """See `Interactions`."""
        return map(_stored, self._records.scroll(_of_user(user_id), page=PAGE))

    def items(self, user_id: str, length: int) -> dict[str, str]:
        """See `Interactions`."""
        [points] = self._read(_newest(user_id, length, ["item_id", "title", "timestamp"]))
        found = [one.payload for one in points]
        found.sort(key=lambda one: (one["timestamp"], one["item_id"]), reverse=True)
        return {one["item_id"]: one["title"] for one in found}

    def user_ids(self) -> Iterator[str]:
        """See `Interactions`. Keeps the ids in memory: some 100 bytes each."""
        known = set[str]()
        every = models.Filter(must=[equals("kind", "interaction")])
        for payload in self._records.scroll(every, ["user_id"]):
            user_id = payload["user_id"]
            if user_id not in known:
                known.add(user_id)
                yield user_id


def _payload(one: StoredInteraction) -> dict[str, Any]:
    return {
        "kind": "interaction",
        "user_id": one.user_id,
        "item_id": one.item_id,
        "timestamp": one.timestamp,
        "rating": one.rating,
        "title": one.title,
        "summary": one.summary,
        "review_title": one.review_title,
        "review_text": one.review_text,
        "aspects": _aspects(one),
    }


def _of_user(user_id: str) -> models.Filter:
    return models.Filter(must=[equals("user_id", user_id), equals("kind", "interaction")])


def _newest(user_id: str, limit: int, fields: bool | list[str] = True) -> models.QueryRequest:
    return models.QueryRequest(
        query=models.OrderByQuery(order_by=_NEWEST),
        filter=_of_user(user_id),
        limit=limit,
        with_payload=fields,
    )


def _stored(payload: Mapping[str, Any]) -> StoredInteraction:
    return StoredInteraction(**{name: payload[name] for name in payload.keys() - {"kind"}})


def _aspects(one: StoredInteraction) -> dict[str, str | None] | None:
    return None if one.aspects is None else dict(one.aspects)
