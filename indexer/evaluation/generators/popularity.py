"""The most popular items that the user does not have: the floor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from indexer.evaluation.generators.base import Fitted, Floats
from indexer.evaluation.interactions import Indexes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SETTINGS = 1


def fitted(training: csr_matrix, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model; an item's score is the number of its users."""
    counts = np.asarray(training.sum(axis=0), dtype=np.float64).ravel()

    def scores(users: Indexes) -> Floats:
        return np.tile(counts, (len(users), 1))

    yield Fitted({}, scores)
