"""The whole catalogue in the order of a generator's scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from indexer.evaluation.generators.base import Fitted, Floats, matrix
from indexer.evaluation.interactions import Indexes, Interactions
from indexer.metrics import Ranks

USERS_AT_ONCE = 256


class Catalogue:
    """All items in the order of their scores for a user, without those that the user has.

    Of equal scores the more popular item comes first, then the smaller id. An item whose score is
    not finite is left out.
    """

    def __init__(self, training: Interactions) -> None:
        self._items = matrix(training)
        # Ids are in alphabetical order already, and a stable sort keeps it.
        self._order = np.argsort(-training.item_counts(), kind="stable")
        self._names = [training.items[item] for item in self._order]

    def lists(self, fitted: Fitted, rows: Indexes, top: int) -> Iterator[list[tuple[str, float]]]:
        """The best `top` items that each user (row) has not, with their scores."""
        top = min(top, len(self._names))
        for start in range(0, len(rows), USERS_AT_ONCE):
            block = rows[start : start + USERS_AT_ONCE]
            scores = self._scores(fitted, block)
            for row, least in zip(scores, np.partition(scores, -top, axis=1)[:, -top], strict=True):
                places = np.flatnonzero((row >= least) & np.isfinite(row))
                places = places[np.argsort(-row[places], kind="stable")][:top]
                yield [(self._names[place], _short(row[place])) for place in places]

    def ranks(self, fitted: Fitted, rows: Indexes, wanted: list[str]) -> Ranks:
        """Where each user's wanted item stands among all that the user has not."""
        place_of = {name: place for place, name in enumerate(self._names)}
        places = np.array([place_of.get(one, -1) for one in wanted], dtype=np.int64)
        ranks = np.zeros(len(rows), dtype=np.int64)
        for start in range(0, len(rows), USERS_AT_ONCE):
            block = slice(start, start + USERS_AT_ONCE)
            scores, own = self._scores(fitted, rows[block]), places[block, None]
            values = np.take_along_axis(scores, own, axis=1)
            earlier = np.arange(len(self._names)) < own
            ahead = ((scores > values) | ((scores == values) & earlier)).sum(axis=1)
            is_ranked = (own[:, 0] >= 0) & np.isfinite(values[:, 0])
            ranks[block] = np.where(is_ranked, 1 + ahead, 0)
        return ranks

    def _scores(self, fitted: Fitted, block: Indexes) -> Floats:
        scores = np.array(fitted.scores(block), dtype=np.float64)
        users, items = self._items[block].nonzero()
        scores[users, items] = -np.inf
        return scores[:, self._order]


def _short(score: float) -> float:
    return float(f"{score:.7g}")
