"""Charts of a page as data; `templates/charts.html` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """One horizontal bar.

    low, high: ends of an interval. mark: a value to compare with. series: number of the colour.
    """

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    mark: float | None = None
    series: int = 1


@dataclass(frozen=True)
class BarGroup:
    """Bars under one title; an empty title shows none."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class BarChart:
    """Groups of bars on one scale from 0. `maximum`: None for the largest value shown."""

    caption: str
    groups: Sequence[BarGroup]
    maximum: float | None = None

    @property
    def scale(self) -> float:
        """The value at the right end."""
        values = [
            value
            for group in self.groups
            for bar in group.bars
            for value in (bar.value, bar.high, bar.mark)
            if value is not None
        ]
        return self.maximum or max(values, default=0) or 1

    def at(self, value: float) -> str:
        """A value's place on the scale, in percent of the width: "35.00"."""
        return f"{100 * min(max(value / self.scale, 0), 1):.2f}"


@dataclass(frozen=True)
class Series:
    """One distribution: `counts[n]` values fall into class n."""

    name: str
    counts: Sequence[int]


@dataclass(frozen=True)
class HistogramChart:
    """Distributions over the same classes; class n reaches from `edges[n]` to `edges[n + 1]`.

    line: a value to compare with, and its name.
    """

    caption: str
    axis: str
    unit: str
    edges: Sequence[float]
    series: Sequence[Series]
    line: tuple[float, str] | None = None

    @property
    def highest(self) -> int:
        """The largest count."""
        return max((count for one in self.series for count in one.counts), default=0) or 1

    def at(self, value: float) -> str:
        """A value's place on the axis, in percent of the width."""
        first, last = self.edges[0], self.edges[-1]
        return f"{100 * min(max((value - first) / (last - first), 0), 1):.2f}"

    def ticks(self) -> list[float]:
        """About six edges with equal distances, to be labelled."""
        step = max(1, (len(self.edges) - 1) // 5)
        return list(self.edges[::step])
