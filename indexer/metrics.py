"""HR, MRR and NDCG where every user has one held-out item (leave-one-out).

With a single relevant item all three are functions of its rank r alone: within the cutoff k,
HR@k = 1, MRR@k = 1 / r and NDCG@k = 1 / log2(r + 1); else 0. A user whose item is not in the list
is a miss and counts in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]
"""(n_users,): the place of each user's held-out item, from 1; 0 where it is not in the list."""

Floats = npt.NDArray[np.float64]

CUTOFFS = (5, 10, 20)


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
    """The columns of `metric_values`: HR@5, MRR@5, NDCG@5, HR@10 ..."""
    return [f"{name}@{cutoff}" for cutoff in cutoffs for name in ("HR", "MRR", "NDCG")]


def metric_values(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> Floats:
    """Each user's metrics: (n_users, n_metrics) float64, columns as `metric_names`."""
    columns = []
    for cutoff in cutoffs:
        hits = (_hits(ranks) & (ranks <= cutoff)).astype(np.float64)
        columns += [hits, hits * reciprocal_ranks(ranks), gains(ranks, cutoff)]
    return np.stack(columns, axis=-1)


def reciprocal_ranks(ranks: Ranks) -> Floats:
    """1 / rank of each user, 0 for a miss: (n_users,). Their mean is the MRR without a cutoff."""
    return _hits(ranks) / np.maximum(ranks, 1)


def gains(ranks: Ranks, cutoff: int = 10) -> Floats:
    """NDCG@cutoff of each user: (n_users,)."""
    hits: Floats = (_hits(ranks) & (ranks <= cutoff)) / np.log2(np.maximum(ranks, 1) + 1)
    return hits


def mean_metrics(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The mean over users of each metric. `ranks` must not be empty."""
    means = metric_values(ranks, cutoffs).mean(axis=0)
    return dict(zip(metric_names(cutoffs), means.tolist(), strict=True))


def ndcg(ranks: Ranks, cutoff: int = 10) -> float:
    """Mean NDCG at one cutoff. Generators and settings are chosen by it, on validation items."""
    return float(gains(ranks, cutoff).mean())


def ceiling(ranks: Ranks) -> float:
    """The share of users whose item is in the list at all: no reordering can reach more."""
    return float(np.mean(ranks > 0))


def _hits(ranks: Ranks) -> npt.NDArray[np.bool_]:
    return ranks >= 1
