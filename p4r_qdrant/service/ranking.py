"""`POST /v1/rerank`: the rankings of a request, within its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from p4r_qdrant.errors import IndexUnavailableError, InputError
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.live.pair import Vector
from p4r_qdrant.records import RankedItem, Ranking
from p4r_qdrant.rerank.users import KnownUser, User
from p4r_qdrant.schemas.reranking import Reason, RerankBody, UserBody
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.request import FailedError, RankThreads, Request
from p4r_qdrant.service.resolving import Resolver
from p4r_qdrant.service.together import Together
from p4r_qdrant.settings import RerankSettings


@dataclass(frozen=True, slots=True)
class Found:
    """The users of a request, and the version of the index that their vectors belong to."""

    live: Live
    users: Sequence[Vector | None]


class Ranker:
    """Reranks within the deadline. If a part fails or is late, the generator's order is kept."""

    def __init__(
        self,
        backend: Backend,
        batcher: Batcher,
        metrics: Metrics,
        threads: RankThreads | None = None,
    ) -> None:
        """threads: those of another ranker, which closes them."""
        self._backend = backend
        self._batcher = batcher
        self._metrics = metrics
        self._settings = backend.settings
        self.threads = threads or RankThreads(backend.settings.service, metrics)
        self._together = Together(self.threads)
        self._resolver = Resolver(backend, batcher, metrics, self.threads)

    def over(self, backend: Backend) -> Ranker:
        """A ranker over another backend, on the same threads. Its end is `close_own`."""
        return Ranker(backend, self._batcher, self._metrics, self.threads)

    async def rerank(
        self, body: RerankBody, found: Found | None = None
    ) -> tuple[list[Ranking], list[Reason | None]]:
        """One ranking for each user, and why it keeps the generator's order if it does.

        found: the users, if the caller has looked them up.
        Raises InputError if the caller has to change the request, ProblemError (429) if too many
        texts wait for the encoder.
        """
        self._check(body)
        count = len(body.users)
        deadline = time.monotonic() + self._settings.service.deadline_ms / 1000
        reasons: list[Reason | None] = [None] * count
        with self._metrics.stage("total"):
            try:
                with nullcontext(found.live) if found else self._backend.in_use() as live:
                    _check_vectors(body, live)
                    check_collaborative(body.fusion.settings() if body.fusion else None, live)
                    request = Request(body, live, [None] * count, reasons, deadline)
                    rankings = await self._rankings(request, found)
            except FailedError as error:
                rankings, reasons = await _all_as_generated(body), [error.reason] * count
            except IndexUnavailableError:
                rankings = await _all_as_generated(body)
                reasons = ["index_unavailable"] * count
        for reason in filter(None, reasons):
            self._metrics.degraded.labels(reason).inc()
        return rankings, reasons

    def _check(self, body: RerankBody) -> None:
        """Raise InputError if the request lacks scores for weighted fusion."""
        fusion = body.fusion.method if body.fusion else self._settings.rerank.fusion
        for position, user in enumerate(body.users):
            if fusion == "weighted" and any(score is None for _, score in user.pairs()):
                raise InputError(
                    f"users.{position}.candidates: weighted fusion needs a score for each "
                    "candidate; add the scores or ask for rrf"
                )

    async def _rankings(self, request: Request, found: Found | None) -> list[Ranking]:
        if found is not None:
            request.users = list(found.users)
            await self._resolver.add_items(request)
            return await self._rank(request)
        known = [one.user_id for one in request.body.users if one.user_id is not None]
        if len(known) == len(request.users):
            rankings = await self._rank_known(request, known)
            if rankings is not None:
                return rankings
        await self._resolver.resolve(request)
        return await self._rank(request)

    async def _rank_known(self, request: Request, user_ids: Sequence[str]) -> list[Ranking] | None:
        """Rankings of users whose vectors are all stored; None if one is missing."""
        live = request.live

        def work() -> list[Ranking] | None:
            vectors = live.users.user_vectors(list(set(user_ids)))
            if vectors.keys() < set(user_ids):
                return None
            items = live.items_of(user_ids, request.fusion)
            users = [KnownUser(vectors[one], items[one]) for one in user_ids]
            return _reranked(request, users)

        with self._metrics.stage("query"):
            if len(user_ids) == 1:
                ranking = await self._together.rank(request)
                return None if ranking is None else [ranking]
            return await self.threads.run(work, request)

    async def _rank(self, request: Request) -> list[Ranking]:
        body = request.body
        if all(user is None for user in request.users) and body.filter is None:
            return await _all_as_generated(body)
        with self._metrics.stage("query"):
            return await self.threads.run(lambda: _reranked(request, request.users), request)

    def close(self) -> None:
        """Wait for what is running."""
        self.threads.close()
        self.close_own()

    def close_own(self) -> None:
        """Wait for what is being written; the threads stay."""
        self._resolver.close()


def _reranked(request: Request, users: Sequence[User]) -> list[Ranking]:
    body = request.body
    return request.live.reranker.rerank_many(
        users,
        [user.pairs() for user in body.users],
        body.top,
        filter=body.filter,
        explain=body.explain,
        rerank=request.fusion,
    )


def _check_vectors(body: RerankBody, live: Live) -> None:
    """Raise VectorError if a user's vector does not fit the index."""
    for position, user in enumerate(body.users):
        if user.vector is not None:
            check_vectors([user.vector], live.index.metadata.dimension, f"users.{position}")


def check_collaborative(options: RerankSettings | None, live: Live) -> None:
    """Raise InputError if a collaborative weight is asked for and the index has no such part."""
    asked = options is not None and options.fusion == "standard" and options.collaborative_weight
    if asked and live.index.collaborative is None:
        raise InputError(
            "fusion.collaborative_weight: the index has no collaborative part; leave the weight "
            "out, or let the operator add the part with `p4r publish --artifacts DIR`"
        )


async def _all_as_generated(body: RerankBody) -> list[Ranking]:
    rankings = []
    for user in body.users:
        rankings.append(_as_generated(user, body.top))
        await asyncio.sleep(0)  # a thousand candidates take a millisecond: others come between
    return rankings


def _as_generated(user: UserBody, top: int | None) -> Ranking:
    """The candidates in the generator's order, each once."""
    distinct: dict[str, float | None] = {}
    for item_id, score in user.pairs():
        distinct.setdefault(item_id, score)
    items = [
        RankedItem(item_id, rank, None, generator_score=score, generator_rank=rank)
        for rank, (item_id, score) in enumerate(distinct.items(), start=1)
    ]
    return Ranking(tuple(items[:top]), personalized=False)
