"""Fewer resamples for intervals and p values, which take a sixth of an experiment's work here."""

import pytest

from indexer.evaluation import significance


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (significance.interval, significance.compare, significance.difference):
        assert one.__kwdefaults__
        monkeypatch.setitem(one.__kwdefaults__, "resamples", 1000)
