"""Personas in clusters, named by telling terms, with the ids of the clusters before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans

from p4r_qdrant.arrays import Floats, normalised

FEW, MOST = 2, 24
"""Segments of a catalogue, where their number is not given."""
AT_ONCE = 20_000
"""Personas that are clustered together; more of them in small batches."""
SAME = 0.3
"""Least overlap (Jaccard) of two clusters that are taken for one segment."""

PersonaKey = tuple[str, str]
"""Item id and persona id."""


def clusters(vectors: Floats, count: int | None = None) -> tuple[npt.NDArray[np.int64], Floats]:
    """The number of each persona's cluster, (n,), and the centres, (k, dim) of unit length.

    vectors: (n, dim) of unit length. Without `count`, larger catalogues have more clusters. The
    same vectors give the same clusters; no cluster is empty.
    """
    distinct = len(np.unique(vectors, axis=0))
    wanted = count or int(np.clip(round(np.sqrt(len(vectors) / 8)), FEW, MOST))
    wanted = max(1, min(wanted, distinct))
    kind = KMeans if len(vectors) <= AT_ONCE else MiniBatchKMeans
    labels = kind(wanted, n_init=4, random_state=0).fit_predict(vectors)
    used, labels = np.unique(labels, return_inverse=True)
    centres = [vectors[labels == one].mean(axis=0) for one in range(len(used))]
    return labels.astype(np.int64), normalised(np.stack(centres))


def matched(
    before: Mapping[str, Set[PersonaKey]], now: Sequence[Set[PersonaKey]], following: int
) -> list[str]:
    """An id for each cluster: that of the segment before that it overlaps most, else a new one.

    before: segment id -> its personas. following: the number of the first new id. Personas that one
    side does not have are not compared.
    """
    ids = [""] * len(now)
    if before and now:
        names = sorted(before)
        known_before = set().union(*before.values())
        known_now = set().union(*now)
        overlap = np.zeros((len(names), len(now)))
        for row, name in enumerate(names):
            old = before[name] & known_now
            for column, personas in enumerate(now):
                new = personas & known_before
                either = len(old | new)
                overlap[row, column] = len(old & new) / either if either else 0.0
        for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
            if overlap[row, column] >= SAME:
                ids[column] = names[row]
    for place, one in enumerate(ids):
        if not one:
            ids[place] = f"s{following}"
            following += 1
    return ids
