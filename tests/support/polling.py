"""Waiting for something that another thread or process does."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], seconds: float = 60, message: str = "it never happened"
) -> None:
    """Return when the condition is true; AssertionError(message) after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(message)
        time.sleep(0.01)


def retry(call: Callable[[], object], error: type[Exception], seconds: float = 60) -> None:
    """Call until it does not raise the error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
