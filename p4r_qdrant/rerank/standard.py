"""The one score: persona, collaborative and generator scores, each standardised over a list.

    s(u, i) = (w_p z(persona) + w_c z(collaborative) + w_g z(generator)) / (w_p + w_c + w_g)

z subtracts the mean over the candidates and divides by their standard deviation; it is 0 where all
are equal. A part that is missing is left out, and the weights of the others divide the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.records import Parts
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.scoring import Weights

Values = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Deviation, relative to the largest value, below which float32 scores are equal."""
ROUNDINGS = np.array([ROUNDING, ROUNDING, 0.0])
"""The same for each part; scores of a generator are used as they are."""


Columns = tuple[Values | None, Values | None, Values | None]
"""Persona, collaborative and generator scores of a list, standardised; None: the part is missing.
Each (n,) float64."""


@dataclass(frozen=True, slots=True)
class Combined:
    """The score of a list. carried: by each part, weighted. is_ordered: best first already."""

    scores: Values
    carried: Columns
    is_ordered: bool

    def order(self) -> npt.NDArray[np.intp]:
        """The positions in the list, (n,), best first; ties keep their order."""
        if self.is_ordered:
            return np.arange(len(self.scores))
        return np.argsort(-self.scores, kind="stable")

    def parts(self) -> list[Parts]:
        """What each part carried of each score."""
        size = len(self.scores)
        rows = ([None] * size if one is None else one.tolist() for one in self.carried)
        return [*map(Parts._make, zip(*rows, strict=True))]


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
    nothing = [0.0] * len(item_ids)
    rows: list[Sequence[float | None]] = [
        nothing if personas is None else [*map(personas.get, item_ids)],
        [collaborative.get(one, 0.0) for one in item_ids] if collaborative else nothing,
        _generator_values(candidates) if has_generator else nothing,
    ]
    found = standardised(np.array(rows, dtype=np.float64), ROUNDINGS)
    there = (personas is not None, bool(collaborative), has_generator)
    first, second, third = (row if one else None for row, one in zip(found, there, strict=True))
    return first, second, third


def combined(columns: Columns, weights: Weights) -> Combined | None:
    """The score of each candidate.

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
    is_ordered = not (shares[0] or shares[1])
    return Combined(scores, (carried[0], carried[1], carried[2]), is_ordered)


def standardised(rows: Values, rounding: float | Values) -> Values:
    """Each row of (k, n) with mean 0 and deviation 1; all 0 if its values are equal. NaN becomes 0.

    rounding: the deviation, relative to the largest value, up to which values are equal; (k,) or
    one for all rows.
    """
    missing = np.isnan(rows)
    count: Any = max(rows.shape[1], 1)
    if missing.any():
        rows = np.where(missing, 0.0, rows)
        count = np.maximum(count - missing.sum(axis=1, keepdims=True), 1)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    largest[largest == 0] = 1.0
    centred: Values = rows / largest
    centred -= centred.sum(axis=1, keepdims=True) / count
    centred[missing] = 0.0
    deviation = np.sqrt((centred * centred).sum(axis=1, keepdims=True) / count)
    equal = deviation <= np.reshape(rounding, (-1, 1))
    centred[equal[:, 0]] = 0.0
    deviation[equal] = 1.0
    centred /= deviation
    return centred


def _generator_values(candidates: Sequence[Scored]) -> Sequence[float]:
    scores = [score for _, score in candidates if score is not None]
    if len(scores) == len(candidates):
        return scores
    return [-math.log(rank) for rank in range(1, len(candidates) + 1)]
