"""Two processes that take turns at every read and write, in an order that the test chooses."""

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

Order = Sequence[tuple[int, int]]
"""(task, how many steps it takes before the next entry); at the end each runs on by itself."""


class Interleaving:
    """Runs tasks as threads of which one moves at a time; a step ends at each watched call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._own = threading.local()
        self._moved = threading.Condition()
        self._running: set[int] = set()
        self._turn = 0
        self._left = 0
        self._order: list[tuple[int, int]] = []
        self.steps: list[int] = []
        """The steps that each task has taken in the last run."""

    def watch(self, owner: Any, *names: str) -> None:
        """Watch functions of a class or module."""
        for name in names:
            self._patch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **more: Any) -> Any:
            self._step()
            return function(*args, **more)

        return call

    def _step(self) -> None:
        me: int | None = getattr(self._own, "task", None)
        if me is None:
            return
        with self._moved:
            self.steps[me] += 1
            self._left -= 1
            if self._left <= 0:
                self._next()
            self._moved.wait_for(lambda: self._turn == me)

    def _next(self) -> None:
        """Give the turn to the next task of the order that has not ended."""
        while self._order and self._order[0][0] not in self._running:
            self._order.pop(0)
        if self._order:
            self._turn, self._left = self._order.pop(0)
        elif self._running and self._turn not in self._running:
            self._turn, self._left = min(self._running), 1 << 30
        else:
            self._left = 1 << 30
        self._moved.notify_all()

    def run(self, order: Order, *tasks: Callable[[], object]) -> None:
        """Run the tasks to their ends. Raises the first error of one of them."""
        errors: list[BaseException] = []
        self._order = [one for one in order if one[1] > 0]
        self._running, self.steps = set(range(len(tasks))), [0] * len(tasks)
        self._turn, self._left = 0, 1 << 30

        def work(number: int, task: Callable[[], object]) -> None:
            self._own.task = number
            with self._moved:
                self._moved.wait_for(lambda: self._turn == number)
            try:
                task()
            except BaseException as error:
                errors.append(error)
            with self._moved:
                self._running.discard(number)
                self._next()

        with self._moved:
            self._next()
        threads = [threading.Thread(target=work, args=one, daemon=True) for one in enumerate(tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        if errors:
            raise errors[0]


def orders(first: int, second: int) -> Iterable[Order]:
    """Task 0 takes i steps, task 1 takes j, task 0 ends, task 1 ends: for all i, every second j."""
    for i in range(first + 1):
        for j in range(1 + i % 2, second + 1, 2):
            yield [(0, i), (1, j), (0, 1 << 30)]
