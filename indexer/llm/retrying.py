"""The one retry policy: what may get better is sent again, never earlier than Retry-After says."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from indexer.llm.errors import TransientError

BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

T = TypeVar("T")


async def patiently(
    send: Callable[[], Awaitable[T]],
    *,
    patience_s: Callable[[TransientError], float],
    noted: Callable[[TransientError, float], None],
    pause: Callable[[float], Awaitable[None]],
) -> T:
    """Call `send` until it raises no TransientError; the last one when patience is at its end.

    `patience_s` is asked after each failure for how long to try in all, `noted` is told the
    failure and the seconds until the next try, which `pause` lets pass.
    """
    try:
        return await send()  # tenacity takes its time, and the first try is nearly always the last
    except TransientError as error:
        failures = [error]

    async def once() -> T:
        if failures:
            raise failures.pop()
        return await send()

    def stop(state: tenacity.RetryCallState) -> bool:
        elapsed = state.seconds_since_start or 0
        return elapsed + state.upcoming_sleep > patience_s(_failure(state))

    policy = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=_wait,
        stop=stop,
        before_sleep=lambda state: noted(_failure(state), state.upcoming_sleep),
        sleep=pause,
        reraise=True,
    )
    return await policy(once)


def _wait(state: tenacity.RetryCallState) -> float:
    """Full jitter over a doubling bound; never before Retry-After, and then not all at once."""
    bound = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(state.attempt_number, 16))
    return _failure(state).wait_s + random.uniform(0, bound)  # noqa: S311 - jitter


def _failure(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, TransientError) else TransientError("")
