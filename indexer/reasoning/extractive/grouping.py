"""Vectors of an item's sentences to aspect slots, and to groups of similar sentences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from p4r_qdrant.arrays import Floats

MOST_GROUPS = 7
LEAST_OF_A_GROUP = 3
"""Sentences that a group has on average, at least: fewer would make a persona of one remark."""
MOST_GROUPED = 2_000
"""Sentences of an item that are grouped; of more, evenly spaced ones are."""

Labels = npt.NDArray[np.int64]


def nearest_slots(vectors: Floats, slots: Floats) -> list[int]:
    """The position of the slot that is nearest to each sentence.

    vectors: (n, dim), slots: (n_slots, dim); all of unit length.
    """
    return [int(one) for one in (vectors @ slots.T).argmax(axis=1)] if len(vectors) else []


def groups(vectors: Floats, seed: int) -> list[list[int]]:
    """One to `MOST_GROUPS` groups of sentences, the largest first; each most central first.

    vectors: (n, dim) of unit length. The number of groups is the one with the largest silhouette.
    Groups hold positions in `vectors`.
    """
    labels = _labels(vectors, seed)
    found = [np.flatnonzero(labels == label) for label in range(labels.max(initial=-1) + 1)]
    found.sort(key=lambda own: (-len(own), own[0]))
    return [_most_central_first(vectors, own) for own in found]


def _labels(vectors: Floats, seed: int) -> Labels:
    """The number of each sentence's group, (n,)."""
    best, value = np.zeros(len(vectors), dtype=np.int64), -1.0
    distinct = len(np.unique(vectors, axis=0))
    for count in range(2, min(MOST_GROUPS, distinct - 1, len(vectors) // LEAST_OF_A_GROUP) + 1):
        labels = KMeans(count, n_init=4, random_state=seed).fit_predict(vectors)
        if len(np.unique(labels)) < count:
            continue
        now = float(silhouette_score(vectors, labels, metric="cosine"))
        if now > value:
            best, value = labels.astype(np.int64), now
    return best


def _most_central_first(vectors: Floats, own: Labels) -> list[int]:
    near = vectors[own] @ vectors[own].mean(axis=0)
    return [int(one) for one in own[np.argsort(-near, kind="stable")]]
