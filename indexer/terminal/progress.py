"""A progress bar for the current task of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from indexer.terminal.console import err


class Count(ProgressColumn):
    """Steps done, of the total where that is known; nothing before the first step."""

    def render(self, task: Task) -> Text:
        """Return the count."""
        if task.total is not None:
            return Text(f"{task.completed:,.0f}/{task.total:,.0f}")
        return Text(f"{task.completed:,.0f}" if task.completed else "")


class _Remaining(TimeRemainingColumn):
    """The time left, where the total is known."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class ProgressBar:
    """A spinner and a bar on standard error, on a terminal only; a context manager.

    A task without a total, such as "loading the encoder", has the spinner and its seconds.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            Count(),
            TimeElapsedColumn(),
            _Remaining(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task: TaskID | None = None

    def start(self, task: str, total: int | None = None) -> None:
        """Show a task in place of the one before it."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(task, total=total)

    def advance(self, count: int = 1) -> None:
        """Move the bar by `count` steps."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Show a spinner while something loads, on a terminal only."""
    with ProgressBar() as bar:
        bar.start(f"loading {what}")
        yield
