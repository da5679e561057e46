"""A campaign of attacks: each scenario is tried again and again, and has a row in a table.

    scenario = campaign("p4r reason, kill -9", "the run after the last kill")
    for attempt in scenario.attempts(2):
        with attempt:
            ... attempt.random ...

An attempt that raises is a loss. P4R_TEST_ROUNDS multiplies the attempts (make chaos ROUNDS=N).
"""

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

Input = TypeVar("Input")

ROUNDS = max(1, int(os.environ.get("P4R_TEST_ROUNDS") or 1))
LONG = ROUNDS > 1
"""Whether this is the long form."""

INPUTS = 10_000 if LONG else 100
"""Inputs of each fuzzed function."""

ROW = "chaos"
"""The name of the property of a test's report that holds a row."""

SHOWN = 3
"""Losses that a failure shows in full."""


@dataclass
class Scenario:
    """What is tried, and how it went. `measured` names what `worst_s` is the longest of."""

    name: str
    measured: str
    tries: int = 0
    kills: int = 0
    worst_s: float = 0.0
    losses: list[str] = field(default_factory=list)

    def attempts(self, count: int, most: int = 1 << 30) -> Iterator["Attempt"]:
        """`count` attempts in the short form, `most` in the long one.

        Raises AssertionError at the end if one was lost.
        """
        for number in range(min(count * ROUNDS, most)):
            yield Attempt(self, number)
        shown = "\n".join(self.losses[:SHOWN])
        assert not self.losses, f"{self.name}: {len(self.losses)} of {self.tries} lost\n{shown}"

    def fuzz(self, inputs: SearchStrategy[Input], check: Callable[[Input], object]) -> None:
        """Check INPUTS inputs; raises what the check raises for the smallest one that fails."""

        @settings(max_examples=INPUTS, database=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def one(value: Input) -> None:
            self.tries += 1
            start = time.monotonic()
            check(value)
            self.worst_s = max(self.worst_s, time.monotonic() - start)

        try:
            one()
        except Exception as error:
            self.losses.append(str(error))
            raise

    @property
    def row(self) -> "Row":
        return self.name, self.tries, self.kills, len(self.losses), self.worst_s, self.measured


Row = tuple[str, int, int, int, float, str]
Campaign = Callable[[str, str], Scenario]
"""Makes a scenario: its name, and what is measured."""


class Attempt:
    """One try: a context manager that counts what it raises. The number fixes `random`."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self.number = number
        self.random = random.Random(f"{scenario.name} {number}")
        self._scenario = scenario

    def __enter__(self) -> Self:
        self._scenario.tries += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):  # skips, time limits and Ctrl-C go on
            return False
        told = "".join(traceback.format_exception(kind, error, trace))
        self._scenario.losses.append(f"attempt {self.number}: {told}")
        return True

    def killed(self) -> None:
        """Count a process that was killed."""
        self._scenario.kills += 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the block."""
        start = time.monotonic()
        yield
        self._scenario.worst_s = max(self._scenario.worst_s, time.monotonic() - start)


def print_table(reporter: Any) -> None:
    """Print the rows of all reports of a pytest run, of all its workers."""
    rows: list[Row] = [
        row
        for reports in reporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, row in report.user_properties
        if name == ROW
    ]
    if not rows:
        return
    reporter.section("chaos: kills, damages and hostile requests")
    reporter.line(f"{'scenario':<50}{'tries':>8}{'kills':>8}{'losses':>8}{'worst':>11}")
    for name, *counts, worst_s, measured in sorted(rows):
        worst = f"{worst_s:>9.2f} s  {measured}" if measured else ""
        colour = {"red": True} if counts[-1] else {}
        reporter.line(f"{name:<50}{_columns(counts)}{worst}", **colour)
    sums = [sum(row[1] for row in rows), sum(row[2] for row in rows), sum(row[3] for row in rows)]
    reporter.line(f"{'all':<50}{_columns(sums)}")


def _columns(counts: list[int]) -> str:
    return "".join(f"{count:>8}" for count in counts)
