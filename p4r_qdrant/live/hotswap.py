"""Replace an object while calls that use it are running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """An object that is closed when no call uses it any more."""

    def close(self) -> None:
        """Closing twice is fine."""


Part = TypeVar("Part", bound=Closable)


class Current(Generic[Part]):
    """Holds the object that answers now. A call keeps the one it began with. Thread-safe."""

    def __init__(self, first: Part) -> None:
        self._held = _Held(first)
        self._lock = threading.Lock()

    @property
    def now(self) -> Part:
        """The object that a new call would use. It can be replaced and closed at any moment."""
        return self._held.part

    @property
    def is_idle(self) -> bool:
        """Whether no call uses it now."""
        return not self._held.calls

    @contextmanager
    def in_use(self) -> Iterator[Part]:
        """The object for one call. It stays open until the call ends."""
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
        """Use `fresh` for new calls. Close the old object after its last call ends."""
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
