"""The parts of a running service, and their start and end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from copy import copy
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from fastapi import Request

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import P4RError
from p4r_qdrant.moderation import Rules
from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher, BusyError
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.ranking import Ranker
from p4r_qdrant.service.request import FailedError
from p4r_qdrant.service.tenants import Tenants
from p4r_qdrant.settings import OPENAI_HOST
from p4r_qdrant.users.records import JobState

if TYPE_CHECKING:
    from p4r_qdrant.service.tracing import Tracing

Result = TypeVar("Result")

COUNT_S = 0.1
"""Seconds that /metrics waits for the number of jobs before it tells the last one."""

SIDE_THREADS = 8
"""Threads for everything but rankings, so that rankings never wait for it."""


class Background(Protocol):
    """A worker inside this process."""

    def start(self) -> None:
        """Start; called once."""

    def stop(self) -> None:
        """Stop; returns when everything has ended."""

    def spent(self) -> tuple[int, float | None]:
        """Tokens and US dollars spent on the LLM so far; None if a price is unknown."""


class Service:
    """The parts of a service. Call `start` and `close` on the event loop that serves."""

    def __init__(
        self,
        backend: Backend,
        background: Background | None = None,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        """`background` does the jobs in this process; without it a worker elsewhere does them.

        `tracing` replaces the one that the settings ask for. Raises MissingExtraError or
        SettingsError if that one cannot be made.
        """
        own = backend.settings.service
        self.rules = Rules.load(backend.settings.reasoning.rules)
        self.backend = backend
        if tracing is None and own.tracing:
            from p4r_qdrant.service.tracing import Tracing

            tracing = Tracing()
        self.tracing = tracing
        self.span = tracing.span if tracing else nullcontext
        self.metrics = Metrics(self.span)
        self.batcher = Batcher(
            self.metrics,
            window_s=own.batch_window_ms / 1000,
            max_waiting_texts=own.max_waiting_texts,
            cache=backend.cache,
        )
        backend.cache.counted = self.metrics.count_cached
        self.background = background
        self.ranker = Ranker(backend, self.batcher, self.metrics)
        self.tenants = Tenants(self) if backend.settings.index.tenants else None
        self._threads = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="p4r-side")
        # One thread: more of them would only hold more memory, for parsing holds the interpreter.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="p4r-parse")
        self._keeping_up: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the background tasks."""
        self.batcher.start()
        if self.background is not None:
            await asyncio.to_thread(self.background.start)
        self._keeping_up = asyncio.create_task(self.backend.keep_up_forever(self._note_state))
        if self.tenants is not None:
            self.tenants.start()

    def over(self, backend: Backend) -> Service:
        """The same service over another backend: with the same threads, batches and metrics."""
        own = copy(self)
        own.backend, own.ranker = backend, self.ranker.over(backend)
        return own

    @property
    def _all(self) -> list[Service]:
        """The service itself, and those of open tenants."""
        return [self, *(self.tenants.services if self.tenants else ())]

    async def close(self) -> None:
        """Stop the background tasks, finish writes, and close the index."""
        tasks = [one for one in (self._keeping_up, self._counting) if one is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.background is not None:
            await asyncio.to_thread(self.background.stop)
        if self.tenants is not None:
            await self.tenants.close()
        await self.batcher.close()
        await asyncio.to_thread(self.ranker.close)
        await asyncio.to_thread(self._parser.shutdown)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.backend.close)
        if self.tracing:
            await asyncio.to_thread(self.tracing.close)

    @property
    def llm_state(self) -> Literal["queued", "no_llm"]:
        """What an answer says about work that needs an LLM."""
        settings = self.backend.settings
        llm, extractive = settings.llm, settings.reasoning.strategy == "extractive"
        return "queued" if extractive or llm.api_key or llm.host != OPENAI_HOST else "no_llm"

    async def measure(self) -> None:
        """Update the metrics of the background work.

        Jobs that cannot be counted at once keep their numbers, and the metrics tell how old
        those are; the count goes on, one at a time.
        """
        self._note_state()
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count_jobs())
        await asyncio.wait({self._counting}, timeout=COUNT_S)
        if self.background is not None:
            tokens, dollars = self.background.spent()
            self.metrics.llm_tokens.set(tokens)
            self.metrics.llm_cost.set(dollars or 0.0)

    def _note_state(self) -> None:
        self.metrics.count_failovers()
        self.metrics.set_nodes(self.backend.nodes.values())
        self.metrics.behind.set(any(one.backend.problem for one in self._all))

    async def _count_jobs(self) -> None:
        together: Counter[JobState] = Counter({"waiting": 0, "failed": 0})
        counted = False
        for one in self._all:  # of all open tenants together: no label for each
            with suppress(P4RError), one.backend.in_use() as live:
                together.update(await self.in_thread(live.users.jobs.counts))
                counted = True
        if counted:
            self.metrics.set_jobs(dict(together))

    @asynccontextmanager
    async def within_deadline(self) -> AsyncIterator[None]:
        """Context manager for an answer that has no degraded form.

        Raises ProblemError: 503 if P4R_SERVICE__DEADLINE_MS is over, 429 if too many requests wait.
        """
        try:
            async with asyncio.timeout(self.backend.settings.service.deadline_ms / 1000):
                yield
        except TimeoutError:
            raise problems.unavailable(
                "there was no answer within P4R_SERVICE__DEADLINE_MS; try again later"
            ) from None
        except FailedError:
            raise problems.busy("too many requests are waiting; try again later") from None

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Run blocking work on the threads that are not for rankings."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def parse(self, work: Callable[[], Result]) -> Result:
        """Parse a large body, or write a large answer; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, work)

    async def encode(self, live: Live, texts: Sequence[str], *, of_users: bool) -> Floats:
        """Encode texts that will be stored: (n, dim) float32. Raises ProblemError (429, 503).

        of_users: they are texts of histories, not of personas.
        """
        if self.backend.encoder_state != EncoderState.READY:
            raise problems.unavailable("no encoder is ready: send vectors, or try again later")
        try:
            with self.span("encode"):
                return await self.batcher.encode(live, texts, of_users=of_users)
        except BusyError:
            raise problems.busy(
                "too many texts are waiting for the encoder (P4R_SERVICE__MAX_WAITING_TEXTS); "
                "try again in a second"
            ) from None


async def whole_service(request: Request) -> Service:
    """Dependency: the service itself, whatever tenant a request concerns."""
    served: Service = request.app.state.service
    return served


async def service(request: Request) -> Service:
    """Dependency: the service that answers a request, of the tenant that it concerns."""
    served: Service = request.app.state.service
    if served.tenants is None:
        return served
    return await served.tenants.of(request.state.tenant)
