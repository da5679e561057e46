"""Rank known users of concurrent requests together: one set of calls to Qdrant for all of them.

A call costs Qdrant and this process nearly as much for one user as for ten. While a few batches
are under way, requests that ask for the same wait and make the next batch; an idle service waits
for nothing. A batch that takes long keeps nobody waiting: the next one starts beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from p4r_qdrant.errors import IndexUnavailableError, P4RError
from p4r_qdrant.records import Ranking
from p4r_qdrant.rerank.beside import beside
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.schemas.reranking import RerankBody
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.request import RankThreads, Request

AT_ONCE = 2
"""Batches under way that others wait for: while one waits for Qdrant, this process works for the
other."""
PATIENCE_S = 0.05
"""Seconds after which nobody waits for a batch any more."""
MOST_CANDIDATES = 2000
"""Candidates of one batch."""

Found = Ranking | None
"""None: the user's vector is not made yet, or nobody knows the user."""


@dataclass(slots=True)
class _Waiting:
    """A request for one known user. done: its ranking."""

    live: Live
    body: RerankBody
    user_id: str
    candidates: list[Scored]
    done: asyncio.Future[Found] = field(repr=False)

    def fits(self, first: _Waiting) -> bool:
        """Whether one call can rank both."""
        mine, other = self.body, first.body
        return (
            self.live is first.live
            and (mine.top, mine.explain, mine.filter) == (other.top, other.explain, other.filter)
            and mine.fusion == other.fusion
        )


class Together:
    """Makes the batches. Use it on one event loop."""

    def __init__(self, threads: RankThreads) -> None:
        self._threads = threads
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def rank(self, request: Request) -> Found:
        """The ranking of the one known user of a request.

        Raises FailedError and InputError as `RankThreads.run` does.
        """
        return await self._threads.within(self._rank(request), request)

    async def _rank(self, request: Request) -> Found:
        [user] = request.body.users
        assert user.user_id is not None  # noqa: S101 - the caller has looked
        self._threads.enter()
        done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        pairs = user.pairs()
        self._waiting.append(_Waiting(request.live, request.body, user.user_id, pairs, done))
        self._start()
        return await done

    def _start(self) -> None:
        """Start batches, as many as may be under way."""
        while self._waiting and self._under_way < AT_ONCE:
            if batch := self._take():
                self._under_way += 1
                task = asyncio.create_task(self._run(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Waiting]:
        """The next batch: requests that one call can rank, in their order."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        room = MOST_CANDIDATES
        while self._waiting:
            one = self._waiting.popleft()
            if one.done.done():  # its deadline is over
                self._threads.leave()
            elif batch and (len(one.candidates) > room or not one.fits(batch[0])):
                others.append(one)
            else:
                batch.append(one)
                room -= len(one.candidates)
        self._waiting = others
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        is_counted = True

        def uncount() -> None:
            nonlocal is_counted
            if is_counted:
                is_counted = False
                self._under_way -= 1
                self._start()

        timer = asyncio.get_running_loop().call_later(PATIENCE_S, uncount)
        try:
            found = await self._threads.on_a_thread(lambda: _each(batch))
        except Exception as error:
            found = [error] * len(batch)
        timer.cancel()
        for one, ranking in zip(batch, found, strict=True):
            self._threads.leave()
            if one.done.done():
                continue
            if isinstance(ranking, Exception):
                one.done.set_exception(ranking)
            else:
                one.done.set_result(ranking)
        uncount()


def _each(batch: Sequence[_Waiting]) -> Sequence[Found | Exception]:
    """The ranking of each request, or its error: what is wrong with one concerns no other."""
    try:
        return _ranked(batch)
    except IndexUnavailableError:
        raise
    except P4RError as error:
        if len(batch) == 1:
            return [error]
        return [_each([one])[0] for one in batch]


def _ranked(batch: Sequence[_Waiting]) -> list[Found]:
    live, body = batch[0].live, batch[0].body
    fusion = body.fusion.settings() if body.fusion else None
    ids = list(dict.fromkeys(one.user_id for one in batch))
    vectors, items = beside(
        live.index, lambda: live.users.user_vectors(ids), lambda: live.items_of(ids, fusion)
    )
    known = [one for one in batch if one.user_id in vectors]
    rankings = iter(
        live.reranker.rerank_many(
            [KnownUser(vectors[one.user_id], items[one.user_id]) for one in known],
            [one.candidates for one in known],
            body.top,
            filter=body.filter,
            explain=body.explain,
            rerank=fusion,
        )
        if known
        else ()
    )
    return [next(rankings) if one.user_id in vectors else None for one in batch]
