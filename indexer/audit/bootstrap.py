"""A mean with its bootstrap interval over items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from indexer.audit.figures import Interval

RESAMPLES = 2000


def interval(items: Iterable[Sequence[float]], seed: int) -> Interval:
    """The mean of all values with its 95 % bootstrap interval.

    Whole items are drawn, because the values of one item depend on each other. The interval of a
    single item is None.
    """
    values_of_items = list(items)
    sums = np.array([sum(values) for values in values_of_items])
    counts = np.array([len(values) for values in values_of_items])
    mean = float(sums.sum() / counts.sum())
    if len(values_of_items) < 2:
        return Interval(mean, None, None)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(values_of_items), size=len(values_of_items))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
