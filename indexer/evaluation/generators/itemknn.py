"""Item-based nearest neighbours with implicit: cosine, TF-IDF or BM25 weights.

The score of an item is the sum of its similarities to the user's items. Each item has similarities
to its `neighbours` most similar items only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product

from indexer.evaluation.generators.base import DECAYS, Fitted, item_scores, matrix
from indexer.evaluation.interactions import Interactions

WEIGHTS = ("cosine", "tfidf", "bm25")
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
SETTINGS = len(WEIGHTS) * len(NEIGHBOURS) * len(DECAYS)


def fitted(training: Interactions, seed: int) -> Iterator[Fitted]:  # noqa: ARG001 - nothing random
    """One model for each weighting, number of neighbours and decay."""
    from implicit import nearest_neighbours

    kinds = {
        "cosine": nearest_neighbours.CosineRecommender,
        "tfidf": nearest_neighbours.TFIDFRecommender,
        "bm25": nearest_neighbours.BM25Recommender,
    }
    for weights, neighbours in product(WEIGHTS, NEIGHBOURS):
        model = kinds[weights](K=neighbours)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # implicit warns about its own conversions
            model.fit(matrix(training), show_progress=False)
        settings = {"weights": weights, "neighbours": neighbours}
        yield from item_scores(training, model.similarity, settings)
