"""Ask an index two questions at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from p4r_qdrant.index.index import PersonaIndex

First = TypeVar("First")
Second = TypeVar("Second")

_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="p4r-beside")


def beside(
    index: PersonaIndex, first: Callable[[], First], second: Callable[[], Second]
) -> tuple[First, Second]:
    """The results of two questions to an index. Raises what they raise, the first's first.

    `second` runs on a thread if the index waits for a server; it must not call this function.
    """
    if not index.engine.waits:
        return first(), second()
    job = _threads.submit(second)
    try:
        found = first()
    except BaseException:
        job.cancel()
        raise
    return found, job.result()
