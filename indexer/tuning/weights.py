"""Choose the weights of the one score by NDCG@10 on validation items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from indexer.metrics import ndcg
from p4r_qdrant.rerank.scoring import FORM, Weights
from p4r_qdrant.rerank.standard import Columns, combined
from p4r_qdrant.settings import RerankSettings

FORMS = (
    RerankSettings(),
    RerankSettings(interests=0.5),
    RerankSettings(prior=0.5),
    RerankSettings(interests=0.5, prior=0.5),
)
"""Forms of the persona score to try: interests and prior."""

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
        return 1 + int(np.flatnonzero(found.order() == self.target)[0])


@dataclass(frozen=True, slots=True)
class Weighed:
    """Weights and their NDCG@10 on validation items."""

    weights: Weights
    valid: float


def forms(settings: RerankSettings) -> list[RerankSettings]:
    """The forms of the persona score to try, that of Eq. 10 first; what is set stays."""
    given = {name: getattr(settings, name) for name in FORM if name in settings.model_fields_set}
    changed = [one.model_copy(update=given) for one in FORMS]
    return [*{(one.interests, one.prior): one for one in changed}.values()]


def every_weighting(*, has_generator: bool, form: RerankSettings = FORMS[0]) -> list[Weights]:
    """All weights to try with a form of the persona score, the generator's own order first."""
    found = []
    for generator, together in product(range(STEPS, -1, -1), range(STEPS + 1)):
        personas = STEPS - generator - together
        if personas < 0 or (generator and not has_generator):
            continue
        tenths = (personas / STEPS, together / STEPS, generator / STEPS)
        found.append(
            Weights(
                personas=tenths[0],
                collaborative=tenths[1],
                generator=tenths[2],
                interests=form.interests,
                prior=form.prior,
            )
        )
    return found


def choose_weights(cases: Sequence[Case], weightings: Iterable[Weights]) -> list[Weighed]:
    """NDCG@10 of each weighting, best first; of equals the one that comes first.

    A list of a generator has the generator's own order among its weightings, so the best is never
    below it.
    """
    return best_first(Weighed(one, measured(cases, one)) for one in weightings)


def best_first(found: Iterable[Weighed]) -> list[Weighed]:
    """Sorted by NDCG@10; equals stay in their order."""
    return sorted(found, key=lambda one: -one.valid)


def measured(cases: Sequence[Case], weights: Weights) -> float:
    """NDCG@10 with these weights."""
    return ndcg(np.array([case.rank(weights) for case in cases], dtype=np.int64))
