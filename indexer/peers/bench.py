"""Latency, calls, tokens and failures of peers, measured on calls that no ledger answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.peers.cells import Cell, Load, extrapolated, percentiles
from indexer.peers.leaks import no_answer
from indexer.peers.protocol import Asker, Peer, PeerAnswer, PeerQuery
from indexer.peers.results import Totals
from indexer.peers.running import DryRun, asker, rank_all
from indexer.progress import Progress
from p4r_qdrant.settings import LLMSettings

REPEATS = 6
"""Requests of a single user at most: the first one is cold."""
LEAST_S = 5.0
"""A peer that has so many seconds left does not begin another cell."""


@dataclass(frozen=True)
class BenchPlan:
    """users, candidates: of the cells. seconds: for all peers together."""

    users: Sequence[int] = (1, 10, 100)
    candidates: Sequence[int] = (20, 50, 100)
    seconds: float = 480.0


class Bench:
    """Measures peers on queries, which must be of distinct users.

    llm: None for a peer that asks no LLM.
    """

    def __init__(self, plan: BenchPlan, queries: Sequence[PeerQuery], progress: Progress) -> None:
        self._plan = plan
        self._queries = queries
        self._progress = progress

    def cells(self, peer: Peer, name: str, llm: LLMSettings | None, seconds: float) -> list[Cell]:
        """All cells of one peer, within about so many seconds; the dearest are extrapolated."""
        loads = {count: self._load(peer, llm, count) for count in self._plan.candidates}
        pairs = [(u, c) for u in self._plan.users for c in self._plan.candidates]
        pairs.sort(key=lambda pair: pair[0] * loads[pair[1]].tokens)
        self._progress.start(f"measuring {name}", len(pairs))
        until = time.perf_counter() + seconds
        known: list[Cell] = []
        for users, count in pairs:
            left = until - time.perf_counter()
            expected = extrapolated(name, users, count, known, loads).wall_s or 0.0
            self._progress.advance()
            if (known and (expected > left or left < LEAST_S)) or not self._fits(users, count):
                continue
            found = asyncio.run(self._measured(peer, name, llm, (users, count), left))
            if found is not None:
                known.append(found)
        if not known:
            note = f"no request ended within {seconds:.0f} s"
            return [
                Cell(name, users, count, measured=False, note=note)
                for users in self._plan.users
                for count in self._plan.candidates
            ]
        measured = {(one.users, one.candidates): one for one in known}
        return [
            measured.get((users, count)) or extrapolated(name, users, count, known, loads)
            for users in self._plan.users
            for count in self._plan.candidates
        ]

    def _fits(self, users: int, count: int) -> bool:
        """Whether there are so many users with lists of this length."""
        return len(self._of(count)) >= users

    def _of(self, count: int) -> list[PeerQuery]:
        """The queries with at least so many candidates, cut to them."""
        return [
            replace(one, candidates=one.candidates[:count])
            for one in self._queries
            if len(one.candidates) >= count
        ]

    def _load(self, peer: Peer, llm: LLMSettings | None, count: int) -> Load:
        """Calls and tokens of a request, by a dry run on one list, repeated to the length."""
        if llm is None or not self._queries:
            return Load(0.0, float(count))
        query = max(self._queries, key=lambda one: len(one.candidates))
        full = [
            replace(query.candidates[at % len(query.candidates)], item_id=f"{at}")
            for at in range(count)
        ]
        given = replace(query, candidates=tuple(full))
        with TemporaryDirectory() as folder, Ledger(Path(folder), read_only=True) as ledger:
            counting = DryRun(llm, ledger)
            asyncio.run(rank_all(peer, [given], counting))
        estimates = counting.estimates.values()
        return Load(
            float(sum(one.requests for one in estimates)),
            float(sum(one.prompt_tokens + one.completion_tokens for one in estimates)),
        )

    async def _measured(
        self,
        peer: Peer,
        name: str,
        llm: LLMSettings | None,
        size: tuple[int, int],
        most_s: float,
    ) -> Cell | None:
        """One cell; None if it does not end in time."""
        users, count = size
        queries = self._of(count)[: users if users > 1 else REPEATS]
        times: list[float] = []
        answers: list[PeerAnswer] = []
        began = time.perf_counter()
        try:
            async with asyncio.timeout(most_s), _fresh(llm) as ask:
                if users > 1:
                    both = await asyncio.gather(*(_timed(peer, one, ask) for one in queries))
                    times, answers = [t for t, _ in both], [a for _, a in both]
                else:
                    for one in queries:
                        seconds, answer = await _timed(peer, one, ask)
                        times.append(seconds)
                        answers.append(answer)
        except TimeoutError:
            if users > 1 or not times:
                return None
        wall_s = time.perf_counter() - began
        warm = times[1:] if users == 1 and len(times) > 1 else times
        p50_s, p95_s = percentiles(warm)
        totals = Totals.of(name, answers)
        each = len(answers)
        cost = totals.usage.cost_usd
        return Cell(
            name,
            users,
            count,
            measured=True,
            requests=each,
            cold_s=times[0] if users == 1 else None,
            p50_s=p50_s,
            p95_s=p95_s,
            wall_s=p50_s if users == 1 else wall_s,
            calls=totals.usage.calls / each,
            prompt_tokens=totals.usage.prompt_tokens / each,
            completion_tokens=totals.usage.completion_tokens / each,
            cost_usd=None if cost is None else cost / each,
            failed_share=totals.failed_share,
        )


@asynccontextmanager
async def _fresh(llm: LLMSettings | None) -> AsyncIterator[Asker]:
    """An asker with an empty ledger and new connections."""
    if llm is None:
        yield no_answer
        return
    with TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
        async with LLM(llm, ledger) as asked:
            yield asker(asked)


async def _timed(peer: Peer, query: PeerQuery, ask: Asker) -> tuple[float, PeerAnswer]:
    began = time.perf_counter()
    answer = await peer.rank(query, ask)
    return time.perf_counter() - began, answer
