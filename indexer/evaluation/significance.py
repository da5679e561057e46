"""How sure a mean is, and a difference of two: bootstrap, randomization test, Holm.

All metrics depend on a user's rank alone, and equal ranks beyond the largest cutoff are alike.
So users are counted by rank (or pair of ranks) first: resampling n users with replacement is one
multinomial draw over these few cells, and swapping two systems' results for each user with
probability 1/2 is one binomial draw a cell. Nothing is approximated by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.metrics import CUTOFFS, Floats, Ranks, metric_values

RESAMPLES = 10_000
CHUNK = 2_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same users; arrays are (n_metrics,) float64, columns of `metric_names`.

    difference: mean of ours minus mean of theirs. low, high: its bootstrap interval. p: two-sided,
    from the paired randomization test, not corrected.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def interval(
    ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval (95 %) of each mean metric: low and high, (n_metrics,)."""
    cells, counts = np.unique(_clipped(ranks, cutoffs), return_counts=True)
    return _percentiles(metric_values(cells, cutoffs), counts, resamples, seed)


def compare(
    ours: Ranks,
    theirs: Ranks,
    cutoffs: Sequence[int] = CUTOFFS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Ours against theirs; both (n_users,), of the same users in the same order.

    The randomization test (Smucker et al., CIKM 2007) asks how often a difference at least as
    large comes about when each user's two results change places by the toss of a coin;
    p = (times + 1) / (resamples + 1).
    """
    gains, counts = _gains(ours, theirs, cutoffs)
    difference = counts @ gains / len(ours)
    low, high = _percentiles(gains, counts, resamples, seed)
    return Comparison(difference, low, high, _randomization(gains, counts, resamples, seed))


def difference(
    ours: Ranks,
    theirs: Ranks,
    cutoffs: Sequence[int] = CUTOFFS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """As `compare`, without the test: difference, low and high."""
    gains, counts = _gains(ours, theirs, cutoffs)
    return (counts @ gains / len(ours), *_percentiles(gains, counts, resamples, seed))


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's correction of p values tested together, in their order: family-wise error."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _gains(
    ours: Ranks, theirs: Ranks, cutoffs: Sequence[int]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """What each pair of ranks gains, (n_cells, n_metrics), and how many users have it."""
    pairs = np.stack([_clipped(ours, cutoffs), _clipped(theirs, cutoffs)], axis=-1)
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    return metric_values(cells[:, 0], cutoffs) - metric_values(cells[:, 1], cutoffs), counts


def _clipped(ranks: Ranks, cutoffs: Sequence[int]) -> Ranks:
    """Ranks beyond every cutoff are as good as a miss."""
    return np.where(ranks <= max(cutoffs), ranks, 0)


def _percentiles(
    values: Floats, counts: npt.NDArray[np.int64], resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """The interval of counts @ values / n under resampling; values (n_cells, n_metrics)."""
    n = int(counts.sum())
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [rng.multinomial(n, counts / n, size) @ values / n for size in _chunks(resamples)]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _randomization(
    gains: Floats, counts: npt.NDArray[np.int64], resamples: int, seed: int
) -> Floats:
    """Two-sided p of sum(counts @ gains) under random signs."""
    moved = np.any(gains != 0, axis=1)
    gains, counts = gains[moved], counts[moved]
    observed = np.abs(counts @ gains)
    rng = np.random.default_rng(seed)
    as_large = np.zeros(gains.shape[1], dtype=np.int64)
    for size in _chunks(resamples):
        signs = 2 * rng.binomial(counts, 0.5, (size, len(counts))) - counts
        # Sums of the same terms in another order differ in their last bits.
        as_large += np.sum(np.abs(signs @ gains) >= observed - 1e-9, axis=0)
    p: Floats = (as_large + 1) / (resamples + 1)
    return p


def _chunks(total: int) -> list[int]:
    return [min(CHUNK, total - start) for start in range(0, total, CHUNK)]
