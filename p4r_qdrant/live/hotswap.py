"""What answers now, and what takes its place while calls are under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something that is closed when nobody needs it any more."""

    def close(self) -> None:
        """Closing twice is fine."""


Part = TypeVar("Part", bound=Closable)


class Current(Generic[Part]):
    """Holds what answers now. A call ends on what it began with; thread-safe."""

    def __init__(self, first: Part) -> None:
        self._held = _Held(first)
        self._lock = threading.Lock()

    @property
    def now(self) -> Part:
        """What a call would begin with; it may be replaced and closed at any moment."""
        return self._held.part

    @contextmanager
    def in_use(self) -> Iterator[Part]:
        """What answers one call; it stays open until the call is over."""
        with self._lock:
            held = self._held
            held.calls += 1
        try:
            yield held.part
        finally:
            with self._lock:
                held.calls -= 1
                is_over = held.is_retired and not held.calls
            if is_over:
                held.part.close()

    def replace(self, fresh: Part) -> None:
        """From now on calls begin with `fresh`; the old one is closed after the last of its own."""
        with self._lock:
            old, self._held = self._held, _Held(fresh)
            old.is_retired = True
            is_idle = not old.calls
        if is_idle:
            old.part.close()


class _Held(Generic[Part]):
    def __init__(self, part: Part) -> None:
        self.part = part
        self.calls = 0
        self.is_retired = False
