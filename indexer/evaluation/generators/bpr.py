"""BPR-MF (Rendle et al., UAI 2009, arXiv 1205.2618).

`implicit` is not used: it samples negative items by popularity and not uniformly, and that model is
much weaker (magazines, validation NDCG@10: 0.20 at best).
"""

from __future__ import annotations

from collections.abc import Iterator

from indexer.evaluation.generators import pairwise
from indexer.evaluation.generators.base import Fitted
from indexer.evaluation.interactions import Interactions

DIMENSIONS = (64, 128)
REGULARIZATION = (0.01, 0.1, 1.0)
SETTINGS = len(DIMENSIONS) * len(REGULARIZATION) * len(pairwise.EPOCHS)


def fitted(training: Interactions, seed: int) -> Iterator[Fitted]:
    """One model for each setting of the grid."""
    return pairwise.fitted(
        training, seed, layers=(0,), dimensions=DIMENSIONS, regularization=REGULARIZATION
    )
