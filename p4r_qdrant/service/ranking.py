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

from p4r_qdrant.encoder.user_vector import UserVector, history_texts, user_vector
from p4r_qdrant.errors import (
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    P4RError,
    VectorError,
)
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.records import Interaction, RankedItem, Ranking
from p4r_qdrant.rerank.candidates import User
from p4r_qdrant.schemas import RankingAnswer, Reason, RerankBody, UserBody
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Backend, Live
from p4r_qdrant.service.batching import Batcher, BusyError
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.users.records import StoredInteraction
from p4r_qdrant.users.store import UserStore

Result = TypeVar("Result")

MOST_REMEMBERED = 100
"""User vectors that wait to be written; of more, the next request makes them again."""

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
    live: Live
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
        self._side = ThreadPoolExecutor(1, thread_name_prefix="p4r-remember")
        self._remembering = 0
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
        reasons: list[Reason | None] = [None] * count
        with self._metrics.stage("total"):
            try:
                with self._backend.in_use() as live:
                    _check_vectors(body, live)
                    request = _Request(body, live, [None] * count, reasons, deadline)
                    rankings = await self._rankings(request)
            except (_FailedError, IndexUnavailableError) as error:
                rankings = [_as_generated(user, body.top) for user in body.users]
                reasons = [getattr(error, "reason", "index_unavailable")] * count
        for reason in filter(None, reasons):
            self._metrics.degraded.labels(reason).inc()
        return [
            RankingAnswer.of(user, ranking, reason, body.min_score)
            for user, ranking, reason in zip(body.users, rankings, reasons, strict=True)
        ]

    async def _rankings(self, request: _Request) -> list[Ranking]:
        known = [one.user_id for one in request.body.users if one.user_id is not None]
        if len(known) == len(request.users):
            rankings = await self._rank_known(request, known)
            if rankings is not None:
                return rankings
        await self._resolve(request)
        return await self._rank(request)

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

    # -- users --------------------------------------------------------------------------------

    async def _resolve(self, request: _Request) -> None:
        """Fill in what is known of each user."""
        histories: dict[int, Sequence[Interaction]] = {}
        known = {}
        for place, user in enumerate(request.body.users):
            if user.vector is not None:
                request.users[place] = np.asarray(user.vector, dtype=np.float32)
            elif user.history:
                histories[place] = user.interactions()
            elif user.user_id is not None:
                known[place] = user.user_id
        bare = await self._look_up(request, known) if known else {}
        for place, user_id in known.items():
            if user_id in bare:
                histories[place] = [one.record for one in bare[user_id]]
        if histories:
            await self._encode(request, histories)
        for place, user_id in known.items():
            made = request.users[place]
            if user_id in bare and isinstance(made, UserVector):
                self._remember(request.live.users, bare[user_id], made)

    def _remember(
        self, store: UserStore, recent: Sequence[StoredInteraction], made: UserVector
    ) -> None:
        """Keep what was encoded, so that the next request finds it."""
        if self._remembering >= MOST_REMEMBERED:
            return
        spoken = [one for one in recent if one.text]
        encoded = [one.encoded(row) for one, row in zip(spoken, made.embeddings, strict=True)]

        def work() -> None:
            try:
                store.remember(encoded)
            except P4RError as error:
                _log.warning("a user vector was not kept: %s", error)
            finally:
                self._remembering -= 1

        self._remembering += 1
        self._side.submit(work)

    async def _look_up(
        self, request: _Request, known: Mapping[int, str]
    ) -> dict[str, list[StoredInteraction]]:
        """The vectors of known users; returns the interactions of those that have none here."""
        store = request.live.users

        def work() -> tuple[dict[str, UserVector], dict[str, list[StoredInteraction]]]:
            vectors = store.vectors(list(set(known.values())))
            missing = set(known.values()) - vectors.keys()
            return vectors, {user_id: store.recent(user_id) for user_id in missing}

        try:
            with self._metrics.stage("user"):
                vectors, bare = await self._in_thread(work, request)
        except _FailedError as error:
            self._leave(request, list(known), error.reason)
            return {}
        for place, user_id in known.items():
            request.users[place] = vectors.get(user_id)
        return bare

    async def _encode(
        self, request: _Request, histories: Mapping[int, Sequence[Interaction]]
    ) -> None:
        """The histories of these users become vectors; where that fails they stay unknown."""
        history = request.live.history
        places = list(histories)
        users = [history_texts(one, history.length) for one in histories.values()]
        texts = [text for pairs in users for _, text in pairs]
        if not texts:
            return
        if self._backend.encoder_state != "ready":
            self._leave(request, places, "encoder_unavailable")
            return
        try:
            with self._metrics.stage("encode"):
                async with asyncio.timeout(request.seconds_left):
                    rows = await self._batcher.encode(request.live, texts)
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

    async def _rank_known(self, request: _Request, user_ids: Sequence[str]) -> list[Ranking] | None:
        """Rankings of users whose vectors are all there, in one go; else None.

        Where the engine can name a vector, the one query of a single user does.
        """
        body, live = request.body, request.live
        fusion = body.fusion.settings() if body.fusion else None

        def work() -> list[Ranking] | None:
            stored = live.users.stored(user_ids[0]) if len(user_ids) == 1 else None
            if stored is not None:
                try:
                    ranking = live.reranker.rerank_stored(
                        stored,
                        body.users[0].pairs(),
                        body.top,
                        filter=body.filter,
                        explain=body.explain,
                        rerank=fusion,
                    )
                except IndexMismatchError:  # nobody has made it yet, or the user is not known
                    return None
                return [ranking]
            vectors = live.users.vectors(list(set(user_ids)))
            if vectors.keys() < set(user_ids):
                return None
            return self._reranked(request, [vectors[user_id] for user_id in user_ids])

        with self._metrics.stage("query"):
            return await self._in_thread(work, request)

    async def _rank(self, request: _Request) -> list[Ranking]:
        body = request.body
        if all(user is None for user in request.users) and body.filter is None:
            return [_as_generated(user, body.top) for user in body.users]
        with self._metrics.stage("query"):
            return await self._in_thread(lambda: self._reranked(request, request.users), request)

    def _reranked(self, request: _Request, users: Sequence[User]) -> list[Ranking]:
        body = request.body
        return request.live.reranker.rerank_many(
            users,
            [user.pairs() for user in body.users],
            body.top,
            filter=body.filter,
            explain=body.explain,
            rerank=body.fusion.settings() if body.fusion else None,
        )

    async def _in_thread(self, work: Callable[[], Result], request: _Request) -> Result:
        """Run on one of the threads; raises _FailedError where it cannot be or fails."""
        if self._under_way >= self._room:
            raise _FailedError("overloaded")
        if not request.seconds_left:
            raise _FailedError("deadline")
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)
        self._count(1)
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
        finally:
            if job.done():
                self._count(-1)
            else:  # a thread goes on when nobody waits for it any more: it counts until it ends
                job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count, -1))

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.under_way.set(self._under_way)

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._side.shutdown(wait=True, cancel_futures=True)


def _check_vectors(body: RerankBody, live: Live) -> None:
    """Raise VectorError where a user's vector does not fit the index."""
    for place, user in enumerate(body.users):
        if user.vector is not None:
            check_vectors([user.vector], live.index.metadata.dimension, f"users.{place}")


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
