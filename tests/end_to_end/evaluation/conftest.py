"""Fewer resamples and coarser plots: they took a fifth of these tests' work."""

from importlib.util import find_spec
from typing import Any

import pytest

from indexer.evaluation import significance
from indexer.evaluation.experiment import ablations


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (significance.interval, significance.compare, significance.difference):
        assert one.__kwdefaults__
        monkeypatch.setitem(one.__kwdefaults__, "resamples", 1000)
    monkeypatch.setattr(ablations, "RESAMPLES", 200)
    if find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    saved = Figure.savefig

    def coarse(self: Figure, *args: Any, **options: Any) -> None:
        saved(self, *args, **options | {"dpi": 20})

    monkeypatch.setattr(Figure, "savefig", coarse)
