"""The one score: persona, collaborative and generator scores, each standardised over a list.

    s(u, i) = (w_p z(persona) + w_c z(collaborative) + w_g z(generator)) / (w_p + w_c + w_g)

z subtracts the mean over the candidates and divides by their standard deviation; it is 0 where all
are equal. A part that is missing is left out, and the weights of the others divide the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p4r_qdrant.records import Parts
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.scoring import Weights

Values = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Deviation, relative to the largest value, below which float32 scores are equal."""


Columns = tuple[Values | None, Values | None, Values | None]
"""Persona, collaborative and generator scores of a list, standardised; None: the part is missing.
Each (n,) float64."""


@dataclass(frozen=True, slots=True)
class Combined:
    """The score of a list. order: (n,) positions, best first. carried: by each part, weighted."""

    order: npt.NDArray[np.intp]
    scores: Values
    carried: Columns

    def parts(self) -> list[Parts]:
        """What each part carried of each score."""
        size = len(self.scores)
        rows = ([None] * size if one is None else one.tolist() for one in self.carried)
        return list(map(Parts, *rows))


def standard_columns(
    candidates: Sequence[Scored],
    personas: Mapping[str, float | None] | None,
    collaborative: Mapping[str, float] | None,
    *,
    has_generator: bool = True,
) -> Columns:
    """The parts of the score of each candidate.

    personas: None if the user has no vector; an item without personas gets the mean of those that
    have some. collaborative: None or empty if nothing is known of the user there; an item that is
    missing scores 0 before it is standardised. Where the generator gives no score for one of the
    candidates, minus the logarithm of their ranks is used for all.
    """
    item_ids = [item_id for item_id, _ in candidates]
    columns: list[Values | None] = [None, None, None]
    if personas is not None:
        columns[0] = standardised(_values(personas, item_ids, np.nan), ROUNDING)
    if collaborative:
        columns[1] = standardised(_values(collaborative, item_ids, 0.0), ROUNDING)
    if has_generator:
        columns[2] = standardised(_generator_values(candidates), 0.0)
    return columns[0], columns[1], columns[2]


def combined(columns: Columns, weights: Weights) -> Combined | None:
    """The score of each candidate; ties keep their order.

    If of the parts that are there the generator's alone has a weight, its order is kept as it is.
    Returns None if no part that is there has a weight.
    """
    given = (weights.personas, weights.collaborative, weights.generator)
    shares = [0.0 if one is None else weight for weight, one in zip(given, columns, strict=True)]
    total = sum(shares)
    if not total:
        return None
    carried = [
        None if one is None else one * (share / total) + 0.0  # no negative zeros for people
        for share, one in zip(shares, columns, strict=True)
    ]
    scores: Values = sum(one for one in carried if one is not None)  # type: ignore[assignment]
    own = shares[0] or shares[1]
    order = np.argsort(-scores, kind="stable") if own else np.arange(len(scores))
    return Combined(order, scores, (carried[0], carried[1], carried[2]))


def standardised(values: Values, rounding: float) -> Values:
    """Values (n,) with mean 0 and deviation 1; all 0 if they are equal. NaN becomes 0."""
    missing = np.isnan(values)
    known = values[~missing] if missing.any() else values
    largest = np.abs(known).max(initial=0.0)
    result = np.zeros_like(values)
    if not largest:
        return result
    centred = known / largest
    centred -= centred.sum() / len(centred)
    deviation = math.sqrt(centred @ centred / len(centred))
    if deviation > rounding:
        result[~missing] = centred / deviation
    return result


def _values(scores: Mapping[str, float | None], item_ids: Sequence[str], other: float) -> Values:
    found = (scores.get(item_id) for item_id in item_ids)
    return np.array([other if one is None else one for one in found], dtype=np.float64)


def _generator_values(candidates: Sequence[Scored]) -> Values:
    scores = [score for _, score in candidates if score is not None]
    if len(scores) == len(candidates):
        return np.array(scores, dtype=np.float64)
    return -np.log(np.arange(1, len(candidates) + 1, dtype=np.float64))
