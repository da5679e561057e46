"""Item-based nearest neighbours with implicit: cosine, TF-IDF or BM25 weights.

A user's score of an item is the sum of its similarities to what the user has, over each item's
`neighbours` most similar ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from indexer.evaluation.generators.base import Fitted, Floats, Scores
from indexer.evaluation.interactions import Indexes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHTS = ("cosine", "tfidf", "bm25")
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
SETTINGS = len(WEIGHTS) * len(NEIGHBOURS)


def fitted(training: csr_matrix, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model for each weighting and number of neighbours."""
    from implicit import nearest_neighbours

    kinds = {
        "cosine": nearest_neighbours.CosineRecommender,
        "tfidf": nearest_neighbours.TFIDFRecommender,
        "bm25": nearest_neighbours.BM25Recommender,
    }
    for weights, neighbours in product(WEIGHTS, NEIGHBOURS):
        model = kinds[weights](K=neighbours)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # implicit warns of its own conversions
            model.fit(training, show_progress=False)
        settings = {"weights": weights, "neighbours": neighbours}
        yield Fitted(settings, _scores(training, model.similarity))


def _scores(training: csr_matrix, similarity: csr_matrix) -> Scores:
    def scores(users: Indexes) -> Floats:
        return np.asarray((training[users] @ similarity).toarray())

    return scores
