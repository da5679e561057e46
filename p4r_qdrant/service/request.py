"""One rerank request while it is answered, and the threads that work for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from p4r_qdrant.errors import (
    IndexRefusedError,
    IndexUnavailableError,
    InputError,
    P4RError,
    RateLimitedError,
    VectorError,
    for_log,
)
from p4r_qdrant.rerank.users import User
from p4r_qdrant.schemas.reranking import Reason, RerankBody
from p4r_qdrant.service import problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.settings import RerankSettings, ServiceSettings

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class FailedError(Exception):
    """A part of a request fails now. The generator's order is returned, with the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Request:
    """A request, what is known of its users by now, and why some keep the generator's order."""

    body: RerankBody
    live: Live
    users: list[User]
    reasons: list[Reason | None]
    deadline: float

    @property
    def fusion(self) -> RerankSettings | None:
        """What the request sets of the score."""
        return self.body.fusion.settings() if self.body.fusion else None

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - time.monotonic())

    def degrade(self, positions: Sequence[int], reason: Reason) -> None:
        """Keep the generator's order for these users."""
        for position in positions:
            self.reasons[position] = reason


class RankThreads:
    """Threads for rankings. Refuses work when too much is waiting, and ends it at the deadline."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="p4r-rank")
        self._room = settings.threads + settings.max_waiting
        self._under_way = 0

    async def run(self, work: Callable[[], Result], request: Request) -> Result:
        """Run until the deadline. Raises FailedError if that fails, InputError."""
        return await self.within(self.on_thread(work), request)

    async def within(self, result: Coroutine[Any, Any, Result], request: Request) -> Result:
        """Await a result until the deadline. Raises FailedError if that fails, InputError."""
        if not request.seconds_left:
            result.close()
            raise FailedError("deadline")
        try:
            async with asyncio.timeout(request.seconds_left):
                return await result
        except TimeoutError:
            raise FailedError("deadline") from None
        except FailedError:
            raise
        except (IndexUnavailableError, IndexRefusedError) as error:
            log_failure(error)
            raise FailedError(reason_of(error)) from None
        except InputError as error:
            if isinstance(error, (*problems.OURS, VectorError)):
                log_failure(error)
                raise FailedError("index_unavailable") from None
            raise
        except Exception as error:
            log_failure(error)
            raise FailedError("internal_error") from None

    async def on_thread(self, work: Callable[[], Result]) -> Result:
        """Run on one of the threads. Raises FailedError ("overloaded"), and what `work` raises."""
        self.enter()
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)
        # The thread continues after the deadline: it counts until it ends.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self.leave))
        return await asyncio.wrap_future(job)

    async def on_a_thread(self, work: Callable[[], Result]) -> Result:
        """Run on one of the threads what was counted already. Raises what `work` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def enter(self) -> None:
        """Count a ranking that runs or waits. Raises FailedError ("overloaded")."""
        if self._under_way >= self._room:
            raise FailedError("overloaded")
        self._count(1)

    def leave(self) -> None:
        """Count a ranking that has ended."""
        self._count(-1)

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.under_way.set(self._under_way)

    def close(self) -> None:
        """Wait for what is running."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def reason_of(error: P4RError) -> Reason:
    """Why a ranking is degraded, of an error of the index."""
    if isinstance(error, IndexRefusedError):
        return "index_refused"
    return "overloaded" if isinstance(error, RateLimitedError) else "index_unavailable"


def log_failure(error: Exception) -> None:
    """Log a failure. The text of a foreign error can quote users, so only its kind is logged."""
    if isinstance(error, P4RError):
        _log.warning("a part of a rerank failed: %s", for_log(error))
    else:
        _log.error("a part of a rerank failed", exc_info=error)
