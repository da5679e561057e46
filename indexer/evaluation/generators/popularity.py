"""The most popular items that the user does not have: the floor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from indexer.evaluation.generators.base import Fitted, Floats
from indexer.evaluation.interactions import Indexes, Interactions

SETTINGS = 1


def fitted(training: Interactions, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model; an item's score is the number of its users."""
    counts = training.item_counts().astype(np.float64)

    def scores(users: Indexes) -> Floats:
        return np.tile(counts, (len(users), 1))

    yield Fitted({}, scores)
