"""The table of a campaign: a loss is counted, shown and fails the test."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.support import campaign
from tests.support.campaign import ROW, Scenario, print_table


class Reporter:
    def __init__(self, *rows: Any) -> None:
        report = SimpleNamespace(when="teardown", user_properties=[(ROW, row) for row in rows])
        self.stats = {"": [report]}
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines.append(title)

    def line(self, text: str, **_: bool) -> None:
        self.lines.append(text)


def test_a_loss_is_counted_and_fails_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "ROUNDS", 3)
    scenario = Scenario("kettle: kill -9", "boiling again")

    def boil() -> None:
        for attempt in scenario.attempts(2):
            with attempt:
                attempt.killed()
                with attempt.timed():
                    assert attempt.number != 4, "no tea"

    with pytest.raises(AssertionError, match=r"1 of 6 lost(?s:.*)attempt 4(?s:.*)no tea"):
        boil()
    assert scenario.row[:4] == ("kettle: kill -9", 6, 6, 1)
    reporter = Reporter(scenario.row, ("another", 1, 0, 0, 0.0, ""))
    print_table(reporter)
    assert [line.split()[-3:] for line in reporter.lines[-1:]] == [["7", "6", "1"]]
    assert "boiling again" in "".join(reporter.lines)


def test_an_attempt_has_the_same_moments_each_time() -> None:
    first, again = ([one.random.random() for one in Scenario("x", "").attempts(1)] for _ in "ab")
    assert first == again


def test_a_fuzzed_function_that_fails_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "INPUTS", 50)
    scenario = Scenario("divide", "")
    with pytest.raises(ZeroDivisionError):
        scenario.fuzz(st.integers(), lambda number: 1 / number)
    assert len(scenario.losses) == 1
    print_table(Reporter())
