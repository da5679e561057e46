"""Run two pieces of work at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

First = TypeVar("First")
Second = TypeVar("Second")

_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="p4r-beside")


def beside(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """The results of both; `second` runs on a thread. Raises what they raise, the first's first.

    For work that waits for a server. `second` must not call this function.
    """
    job = _threads.submit(second)
    try:
        found = first()
    except BaseException:
        job.cancel()
        raise
    return found, job.result()
