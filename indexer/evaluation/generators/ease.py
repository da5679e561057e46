"""EASE: a linear autoencoder in closed form (see `indexer.collaborative.weights`)."""

from __future__ import annotations

from collections.abc import Iterator

from indexer.collaborative.weights import MOST_ITEMS, exact
from indexer.evaluation.generators.base import DECAYS, Fitted, item_scores, matrix
from indexer.evaluation.interactions import Interactions
from p4r_qdrant.errors import InputError

L2 = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
SETTINGS = len(L2) * len(DECAYS)


def fitted(training: Interactions, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model for each regularization and decay; raises InputError for too many items."""
    n_items = len(training.items)
    if n_items > MOST_ITEMS:
        raise InputError(
            f"EASE inverts a matrix of all pairs of items, and {n_items:,} items are too many "
            f"(at most {MOST_ITEMS:,}); choose itemknn"
        )
    users = matrix(training)
    for l2 in L2:
        yield from item_scores(training, exact(users, l2), {"l2": l2})
