"""Choose the weights of the one score by NDCG@10 on validation items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from indexer.metrics import ndcg
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import Columns, combined

STEPS = 10
"""Weights are tenths that add up to 1."""


@dataclass(frozen=True, slots=True)
class Case:
    """The candidates of a user. columns: the parts of their scores.

    target: the position of the validation item; None if it is not among them.
    """

    columns: Columns
    target: int | None

    def rank(self, weights: Weights) -> int:
        """The rank of the validation item, from 1; 0 if it is not among the candidates.

        Where no part that is there has a weight, the candidates keep their order.
        """
        if self.target is None:
            return 0
        found = combined(self.columns, weights)
        if found is None:
            return self.target + 1
        return 1 + int(np.flatnonzero(found.order == self.target)[0])


@dataclass(frozen=True, slots=True)
class Weighed:
    """Weights and their NDCG@10 on validation items."""

    weights: Weights
    valid: float


def every_weighting(*, has_generator: bool) -> list[Weights]:
    """All weights to try, those of the generator's own order first."""
    found = []
    for generator, together in product(range(STEPS, -1, -1), range(STEPS + 1)):
        personas = STEPS - generator - together
        if personas < 0 or (generator and not has_generator):
            continue
        tenths = (personas / STEPS, together / STEPS, generator / STEPS)
        found.append(Weights(personas=tenths[0], collaborative=tenths[1], generator=tenths[2]))
    return found


def choose_weights(cases: Sequence[Case], weightings: Iterable[Weights]) -> list[Weighed]:
    """NDCG@10 of each weighting, best first; of equals the one that comes first.

    A list of a generator has the generator's own order among its weightings, so the best is never
    below it.
    """
    found = [Weighed(one, measured(cases, one)) for one in weightings]
    return sorted(found, key=lambda one: -one.valid)


def measured(cases: Sequence[Case], weights: Weights) -> float:
    """NDCG@10 with these weights."""
    return ndcg(np.array([case.rank(weights) for case in cases], dtype=np.int64))
