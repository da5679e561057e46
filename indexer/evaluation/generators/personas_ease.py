"""EASE on interactions and on personas as hypothetical users: X = [R ; a A].

Items without an interaction have a column too, if they have personas. `share` is the weight of all
hypothetical users together: with 1 they weigh as much as the users, if both have rows of the same
length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from indexer.collaborative.fitting import with_hypothetical
from indexer.collaborative.hypothetical import KEEP, PersonaVectors, affinities
from indexer.collaborative.weights import MOST_ITEMS, by_neighbourhood, exact
from indexer.evaluation.generators.base import DECAYS, Fitted, item_scores, matrix
from indexer.evaluation.interactions import Interactions

SHARES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
L2 = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class PersonasEase:
    """The generator `personas-ease`. shares, l2: the grid that it tries."""

    def __init__(
        self,
        personas: PersonaVectors,
        shares: Sequence[float] = SHARES,
        l2: Sequence[float] = L2,
    ) -> None:
        self._personas = personas
        self._grid = [*product(shares, l2)]
        self.SETTINGS = len(self._grid) * len(DECAYS)

    def fitted(self, training: Interactions, seed: int) -> Iterator[Fitted]:  # noqa: ARG002
        """One model for each share, regularization and decay.

        training: with an item for each of the personas (`Interactions.with_items`).
        """
        columns = np.searchsorted(training.items, self._personas.items)
        hypothetical = affinities(self._personas, columns, len(training.items), KEEP)
        solve = exact if len(training.items) <= MOST_ITEMS else by_neighbourhood
        users = matrix(training)
        for share, l2 in self._grid:
            rows = with_hypothetical(users, hypothetical, share)
            yield from item_scores(training, solve(rows, l2), {"share": share, "l2": l2})
