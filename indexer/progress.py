"""How far a long job is: what a job reports, and a report that shows nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a job calls while it works; the command line shows it as a bar."""

    def start(self, task: str, total: int | None = None) -> None:
        """A task begins, and the one before it ends. `total`: its number of steps, if known."""

    def advance(self, count: int = 1) -> None:
        """`count` more steps of the current task are done."""


class Silent:
    """Progress that is shown nowhere."""

    def start(self, task: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""


SILENT: Progress = Silent()


def track(
    progress: Progress, records: Iterable[T], task: str, total: int | None = None
) -> Iterator[T]:
    """Yield the records as they are; each one is a step of a new task."""
    progress.start(task, total)
    for record in records:
        yield record
        progress.advance()
