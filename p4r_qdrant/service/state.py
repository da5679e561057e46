"""Everything one running service consists of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from fastapi import Request

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import P4RError
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Backend, Live
from p4r_qdrant.service.batching import Batcher, BusyError
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.ranking import Ranker
from p4r_qdrant.settings import OPENAI_HOST

if TYPE_CHECKING:
    from p4r_qdrant.service.tracing import Tracing

Result = TypeVar("Result")

SIDE_THREADS = 8
"""Threads for everything but rankings, which must not wait for it."""


class Background(Protocol):
    """What does the jobs inside this process."""

    def start(self) -> None:
        """Begin; called once."""

    def stop(self) -> None:
        """Come to an end; returns when everything has."""

    def spent(self) -> tuple[int, float | None]:
        """Tokens and US dollars the LLM has cost so far; None where a price is not known."""


class Service:
    """The parts, wired; `start` and `close` belong to the event loop that serves."""

    def __init__(
        self,
        backend: Backend,
        background: Background | None = None,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        """`background` does the jobs in this process; without, a worker elsewhere does them.

        `tracing` in place of the one that the settings ask for. Raises MissingExtraError and
        SettingsError where that one cannot be.
        """
        own = backend.settings.service
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
        )
        self.background = background
        self.ranker = Ranker(backend, self.batcher, self.metrics)
        self._threads = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="p4r-side")
        self._keeping_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin what happens in the background."""
        self.batcher.start()
        if self.background is not None:
            await asyncio.to_thread(self.background.start)
        self._keeping_up = asyncio.create_task(self.backend.keep_up_forever())

    async def close(self) -> None:
        """End it, wait for what is being written, and close the index."""
        if self._keeping_up is not None:
            self._keeping_up.cancel()
            await asyncio.gather(self._keeping_up, return_exceptions=True)
        if self.background is not None:
            await asyncio.to_thread(self.background.stop)
        await self.batcher.close()
        await asyncio.to_thread(self.ranker.close)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.backend.close)
        if self.tracing:
            await asyncio.to_thread(self.tracing.close)

    @property
    def llm_state(self) -> Literal["queued", "no_llm"]:
        """What is said of something an LLM is to do."""
        llm = self.backend.settings.llm
        return "queued" if llm.api_key or llm.host != OPENAI_HOST else "no_llm"

    async def measure_jobs(self) -> None:
        """Bring the metrics of the background work up to date, where the store can be reached."""
        self.metrics.behind.set(bool(self.backend.problem))
        with suppress(P4RError):
            with self.backend.in_use() as live:
                counts = await self.in_thread(live.users.job_counts)
            for state, count in counts.items():
                self.metrics.jobs.labels(state).set(count)
        if self.background is not None:
            tokens, dollars = self.background.spent()
            self.metrics.llm_tokens.set(tokens)
            self.metrics.llm_cost.set(dollars or 0.0)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Run what blocks, beside the rankings' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def encode(self, live: Live, texts: Sequence[str]) -> Floats:
        """(n, dim) float32 of texts that are to be stored. Raises ProblemError (429, 503)."""
        if self.backend.encoder_state != "ready":
            raise problems.unavailable("there is no encoder now: send vectors, or come again")
        try:
            with self.span("encode"):
                return await self.batcher.encode(live, texts)
        except BusyError:
            raise problems.busy(
                "too many texts are waiting for the encoder (P4R_SERVICE__MAX_WAITING_TEXTS); "
                "come again in a second"
            ) from None


async def service(request: Request) -> Service:
    """The service that a request is for."""
    served: Service = request.app.state.service
    return served
