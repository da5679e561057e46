"""EASE: a linear autoencoder in closed form (Steck, WWW 2019, arXiv 1905.03375).

B = I - P diag(1 / P_ii) with P = (X'X + l I)^-1; the scores of a user are X_u B. No package is
needed beyond NumPy; memory is 8 bytes for each pair of items, twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from indexer.evaluation.generators.base import Fitted, Floats, Scores
from indexer.evaluation.interactions import Indexes
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

L2 = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
SETTINGS = len(L2)
MOST_ITEMS = 30_000


def fitted(training: csr_matrix, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model for each strength of regularization; raises InputError for too many items."""
    n_items = training.shape[1]
    if n_items > MOST_ITEMS:
        raise InputError(
            f"EASE inverts a matrix of all pairs of items, and {n_items:,} items are too many "
            f"(at most {MOST_ITEMS:,}); choose itemknn"
        )
    gram = np.asarray((training.T @ training).toarray(), dtype=np.float64)
    for l2 in L2:
        inverse = np.linalg.inv(gram + l2 * np.eye(n_items))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        yield Fitted({"l2": l2}, _scores(training, weights))


def _scores(training: csr_matrix, weights: Floats) -> Scores:
    def scores(users: Indexes) -> Floats:
        return np.asarray(training[users] @ weights)

    return scores
