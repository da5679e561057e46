"""The retry policy: send again after a transient error, never earlier than Retry-After says."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from indexer.llm.errors import TransientError

BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

T = TypeVar("T")


async def with_retries(
    send: Callable[[], Awaitable[T]],
    *,
    retry_for_s: Callable[[TransientError], float],
    on_retry: Callable[[TransientError, float], None],
    pause: Callable[[float], Awaitable[None]],
) -> T:
    """Call `send` until it raises no TransientError; raise the last one when time is up.

    Args:
        send: one exchange.
        retry_for_s: seconds to try in all, asked after each failure.
        on_retry: called before each retry, with the failure and the seconds until the retry.
        pause: sleeps so many seconds.

    """
    try:
        return await send()  # tenacity is slow, and nearly every first call succeeds
    except TransientError as error:
        failures = [error]

    async def once() -> T:
        if failures:
            raise failures.pop()
        return await send()

    def stop(state: tenacity.RetryCallState) -> bool:
        elapsed = state.seconds_since_start or 0
        return elapsed + state.upcoming_sleep > retry_for_s(_failure(state))

    policy = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=_wait,
        stop=stop,
        before_sleep=lambda state: on_retry(_failure(state), state.upcoming_sleep),
        sleep=pause,
        reraise=True,
    )
    return await policy(once)


def _wait(state: tenacity.RetryCallState) -> float:
    """Retry-After plus full jitter over a doubling bound, so that retries do not coincide."""
    bound = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(state.attempt_number, 16))
    return _failure(state).wait_s + random.uniform(0, bound)  # noqa: S311 - jitter


def _failure(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, TransientError) else TransientError("")
