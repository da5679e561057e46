"""Work in another thread while a test goes on."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

PAUSE_S = 0.005
"""Between two requests of a load. Without it, the load takes the cores from what it tests."""


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` over and over in another thread; its error is raised at the end."""
    stop = threading.Event()

    def again_and_again() -> int:
        times = 0
        while not stop.is_set():
            work()
            times += 1
        return times

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(again_and_again)
        try:
            yield
        finally:
            stop.set()
        assert future.result() > 0
