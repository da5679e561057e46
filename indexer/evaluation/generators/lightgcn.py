"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126)."""

from __future__ import annotations

from collections.abc import Iterator

from indexer.evaluation.generators import pairwise
from indexer.evaluation.generators.base import Fitted
from indexer.evaluation.interactions import Interactions

LAYERS = (1, 2, 3)
DIMENSIONS = (64,)
REGULARIZATION = (0.01, 0.1, 1.0)
SETTINGS = len(LAYERS) * len(DIMENSIONS) * len(REGULARIZATION) * len(pairwise.EPOCHS)


def fitted(training: Interactions, seed: int) -> Iterator[Fitted]:
    """One model for each setting of the grid."""
    return pairwise.fitted(
        training, seed, layers=LAYERS, dimensions=DIMENSIONS, regularization=REGULARIZATION
    )
