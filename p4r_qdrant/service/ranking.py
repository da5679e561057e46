"""`POST /v1/rerank`: users to vectors, one query, and the generator's order whatever fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from p4r_qdrant.encoder import told, user_vector
from p4r_qdrant.errors import IndexUnavailableError, InputError, P4RError, VectorError
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.records import Interaction, RankedItem, Ranking
from p4r_qdrant.reranker import User
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher, BusyError
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.schemas import RankingAnswer, Reason, RerankBody, UserBody
from p4r_qdrant.service.users.store import KnownUser

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class _FailedError(Exception):
    """A part cannot be done now; the ranking goes on without it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class _Request:
    """One request on its way: what is known of its users, and why some are left as they came."""

    body: RerankBody
    users: list[User]
    reasons: list[Reason | None]
    deadline: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


class Ranker:
    """Reranks within the deadline; what fails or takes too long leaves the generator's order."""

    def __init__(self, backend: Backend, batcher: Batcher, metrics: Metrics) -> None:
        self._backend = backend
        self._batcher = batcher
        self._metrics = metrics
        self._settings = backend.settings
        own = backend.settings.service
        self._threads = ThreadPoolExecutor(own.threads, thread_name_prefix="p4r-rank")
        self._room = own.threads + own.max_waiting
        self._under_way = 0

    async def rerank(self, body: RerankBody) -> list[dict[str, Any]]:
        """One RankingAnswer for each user, as dicts.

        Raises InputError for what the caller has to put right, ProblemError (429) where too
        many texts wait for the encoder.
        """
        self._check(body)
        count = len(body.users)
        deadline = time.monotonic() + self._settings.service.deadline_ms / 1000
        request = _Request(body, [None] * count, [None] * count, deadline)
        with self._metrics.stage("total"):
            try:
                await self._resolve(request)
                rankings = await self._rank(request)
            except _FailedError as error:
                rankings = [_as_generated(user, body.top) for user in body.users]
                request.reasons = [error.reason] * count
        for reason in filter(None, request.reasons):
            self._metrics.degraded.labels(reason).inc()
        return [
            RankingAnswer.of(user, ranking, reason, body.min_score)
            for user, ranking, reason in zip(body.users, rankings, request.reasons, strict=True)
        ]

    def _check(self, body: RerankBody) -> None:
        """Raise InputError where the request is larger than the settings allow, or cannot fuse."""
        own = self._settings.service
        fusion = body.fusion.method if body.fusion else self._settings.rerank.fusion
        if len(body.users) > own.max_users:
            raise InputError(
                f"{len(body.users)} users, one request may have {own.max_users} "
                "(P4R_SERVICE__MAX_USERS)"
            )
        for place, user in enumerate(body.users):
            if len(user.candidates) > own.max_candidates:
                raise InputError(
                    f"users.{place}.candidates: {len(user.candidates)} of them, a user may have "
                    f"{own.max_candidates} (P4R_SERVICE__MAX_CANDIDATES)"
                )
            if user.history and len(user.history) > own.max_history:
                raise InputError(
                    f"users.{place}.history: {len(user.history)} interactions, a history may have "
                    f"{own.max_history} (P4R_SERVICE__MAX_HISTORY)"
                )
            if fusion == "weighted" and any(score is None for _, score in user.pairs()):
                raise InputError(
                    f"users.{place}.candidates: weighted fusion needs a score for each of them; "
                    "add them or ask for rrf"
                )
            if user.vector is not None and self._backend.is_open:
                width = self._backend.reranker.index.metadata.dimension
                check_vectors([user.vector], width, f"users.{place}")

    # -- users --------------------------------------------------------------------------------

    async def _resolve(self, request: _Request) -> None:
        """Fill in what is known of each user."""
        histories: dict[int, Sequence[Interaction]] = {}
        known = []
        for place, user in enumerate(request.body.users):
            if user.vector is not None:
                request.users[place] = np.asarray(user.vector, dtype=np.float32)
            elif user.history:
                histories[place] = user.interactions()
            elif user.user_id is not None:
                known.append(place)
        if known:
            histories |= await self._look_up(request, known)
        if histories:
            await self._encode(request, histories)

    async def _look_up(
        self, request: _Request, places: Sequence[int]
    ) -> dict[int, Sequence[Interaction]]:
        """The vectors of known users; returns the histories of those that have none (any more)."""
        owners = {place: request.body.users[place].user_id or "" for place in places}
        store = self._backend.users if self._backend.is_open else None

        def work() -> tuple[dict[str, KnownUser], dict[str, Sequence[Interaction]]]:
            if store is None:
                raise IndexUnavailableError("the index is not open yet")
            found = store.known(list(set(owners.values())), self._backend.fingerprint)
            bare = [user_id for user_id, user in found.items() if user.vector is None]
            return found, {
                user_id: [one.record for one in store.recent(user_id)] for user_id in bare
            }

        try:
            with self._metrics.stage("user"):
                found, bare = await self._in_thread(work, request)
        except _FailedError as error:
            self._leave(request, places, error.reason)
            return {}
        for place, user_id in owners.items():
            if user_id in found:
                request.users[place] = found[user_id].vector
        return {place: bare[user_id] for place, user_id in owners.items() if user_id in bare}

    async def _encode(
        self, request: _Request, histories: Mapping[int, Sequence[Interaction]]
    ) -> None:
        """The histories of these users become vectors; where that fails they stay unknown."""
        history = self._settings.history
        places = list(histories)
        users = [told(one, history.length) for one in histories.values()]
        texts = [text for pairs in users for _, text in pairs]
        if not texts:
            return
        if self._backend.encoder_state != "ready":
            self._leave(request, places, "encoder_unavailable")
            return
        try:
            with self._metrics.stage("encode"):
                async with asyncio.timeout(request.seconds_left):
                    rows = await self._batcher.encode(texts)
        except BusyError:
            raise problems.busy(
                "too many histories are waiting for the encoder "
                "(P4R_SERVICE__MAX_WAITING_TEXTS); come again in a second"
            ) from None
        except TimeoutError:
            self._leave(request, places, "deadline")
        except IndexUnavailableError:
            self._leave(request, places, "index_unavailable")
        except Exception as error:
            _note(error)
            self._leave(request, places, "encoder_unavailable")
        else:
            start = 0
            for place, pairs in zip(places, users, strict=True):
                own = rows[start : start + len(pairs)]
                start += len(pairs)
                request.users[place] = user_vector([one for one, _ in pairs], own, history.decay)

    def _leave(self, request: _Request, places: Sequence[int], reason: Reason) -> None:
        for place in places:
            request.reasons[place] = reason

    # -- the query ----------------------------------------------------------------------------

    async def _rank(self, request: _Request) -> list[Ranking]:
        body = request.body

        def work() -> list[Ranking]:
            return self._backend.reranker.rerank_many(
                request.users,
                [user.pairs() for user in body.users],
                body.top,
                filter=body.filter,
                explain=body.explain,
                rerank=body.fusion.settings() if body.fusion else None,
            )

        if all(user is None for user in request.users) and body.filter is None:
            return [_as_generated(user, body.top) for user in body.users]
        with self._metrics.stage("query"):
            return await self._in_thread(work, request)

    async def _in_thread(self, work: Callable[[], Result], request: _Request) -> Result:
        """Run on one of the threads; raises _FailedError where it cannot be or fails."""
        if self._under_way >= self._room:
            raise _FailedError("overloaded")
        if not request.seconds_left:
            raise _FailedError("deadline")
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)
        self._count(1)
        # A thread goes on when nobody waits for it any more: it counts until it ends.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count, -1))
        try:
            async with asyncio.timeout(request.seconds_left):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise _FailedError("deadline") from None
        except IndexUnavailableError as error:
            _note(error)
            raise _FailedError("index_unavailable") from None
        except InputError as error:
            if isinstance(error, (*problems.OURS, VectorError)):
                _note(error)
                raise _FailedError("index_unavailable") from None
            raise
        except Exception as error:
            _note(error)
            raise _FailedError("internal_error") from None

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.under_way.set(self._under_way)

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _as_generated(user: UserBody, top: int | None) -> Ranking:
    """The candidates as they came, each once."""
    distinct: dict[str, float | None] = {}
    for item_id, score in user.pairs():
        distinct.setdefault(item_id, score)
    items = [
        RankedItem(item_id, rank, None, generator_score=score, generator_rank=rank)
        for rank, (item_id, score) in enumerate(distinct.items(), start=1)
    ]
    return Ranking(tuple(items[:top]), personalized=False)


def _note(error: Exception) -> None:
    """Into the log: our own sentences whole, of others only what and where they were."""
    if isinstance(error, P4RError):
        _log.warning("reranking goes on without: %s", error)
    else:
        _log.error("reranking goes on without what failed here", exc_info=error)
