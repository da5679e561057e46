"""Kills at every write: a process that dies before or after the n-th change of what is stored."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Killed(BaseException):
    """The process is dead; no `except Exception` comes between."""


class Kills:
    """Counts calls of the watched functions in a `with` block; raises Killed around one of them.

    Place 2n is before the n-th call, place 2n + 1 after it. After a kill, no further call has an
    effect until the block ends.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.place: int | None = None
        self._count = 0
        self._dead = self._inside = False
        self.killed = False
        """Whether the last block was killed."""

    def watch(self, owner: Any, *names: str) -> None:
        """Watch functions of a class or module."""
        for name in names:
            self._patch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **more: Any) -> Any:
            self._reach()
            result = function(*args, **more)
            self._reach()
            return result

        return call

    def _reach(self) -> None:
        if not self._inside:
            return
        if self._dead or self._count == self.place:
            self._dead = True
            raise Killed
        self._count += 1

    def rounds(self, stride: int = 1) -> Iterator[int]:
        """The places in order, until a round survives: each has one `with kills` block.

        stride: an odd one reaches places before and after calls.
        """
        for place in range(0, 10_000, stride):
            self.place, self._count, self.killed = place, 0, False
            yield place
            if not self.killed:
                return

    def __enter__(self) -> None:
        """Begin the process that dies."""
        self._inside = True

    def __exit__(self, *_: object) -> bool:
        """It is over; what comes now is another process."""
        self._inside = False
        self.killed, self._dead, self.place = self._dead, False, None
        return self.killed
