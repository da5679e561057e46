"""The one score: persona, collaborative and generator scores, each standardised over a list.

    s(u, i) = (w_p z(persona) + w_c z(collaborative) + w_g z(generator)) / (w_p + w_c + w_g)

z subtracts the mean over the candidates and divides by their standard deviation; it is 0 where all
are equal. A part that is missing is left out, and the weights of the others divide the sum.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Standard:
    """The scores of a list. order: positions of the candidates, best first."""

    order: list[int]
    scores: list[float]
    parts: list[Parts]


def standard_scores(
    candidates: Sequence[Scored],
    personas: Mapping[str, float | None] | None,
    collaborative: Mapping[str, float] | None,
    weights: Weights,
    *,
    has_generator: bool = True,
) -> Standard | None:
    """The score of each candidate; ties keep the order of `candidates`.

    personas: None if the user has no vector; an item without personas gets the mean of those that
    have some. collaborative: None or empty if nothing is known of the user there; an item that is
    missing scores 0 before it is standardised. Where the generator gives no score for one of the
    candidates, minus the logarithm of their ranks is used for all. If the generator's part alone
    has a weight, its order is kept as it is.

    Returns None if no part of the user's own is known or has a weight, and no generator's either.
    """
    item_ids = [item_id for item_id, _ in candidates]
    columns: list[Values | None] = [None, None, None]
    if personas is not None:
        columns[0] = standardised(_values(personas, item_ids, np.nan), ROUNDING)
    if collaborative:
        columns[1] = standardised(_values(collaborative, item_ids, 0.0), ROUNDING)
    if has_generator:
        columns[2] = standardised(_generator_values(candidates), 0.0)
    shares = [
        weight if column is not None else 0.0
        for weight, column in zip(
            (weights.personas, weights.collaborative, weights.generator), columns, strict=True
        )
    ]
    total = sum(shares)
    if not total:
        return None
    carried = [
        None if column is None else column * (share / total)
        for share, column in zip(shares, columns, strict=True)
    ]
    scores = np.sum([one for one in carried if one is not None], axis=0)
    own = shares[0] or shares[1]
    order = np.argsort(-scores, kind="stable") if own else np.arange(len(scores))
    rows = [[None] * len(scores) if one is None else one.tolist() for one in carried]
    return Standard(order.tolist(), scores.tolist(), list(map(Parts, *rows)))


def standardised(values: Values, rounding: float) -> Values:
    """Values (n,) with mean 0 and deviation 1; all 0 if they are equal. NaN becomes 0."""
    known = np.isfinite(values)
    largest = np.abs(values[known]).max(initial=0.0)
    result = np.zeros_like(values)
    if not largest:
        return result
    scaled = values[known] / largest
    deviation = scaled.std()
    if deviation > rounding:
        result[known] = (scaled - scaled.mean()) / deviation
    return result


def _values(scores: Mapping[str, float | None], item_ids: Sequence[str], other: float) -> Values:
    found = (scores.get(item_id) for item_id in item_ids)
    return np.array([other if one is None else one for one in found], dtype=np.float64)


def _generator_values(candidates: Sequence[Scored]) -> Values:
    scores = [score for _, score in candidates if score is not None]
    if len(scores) == len(candidates):
        return np.array(scores, dtype=np.float64)
    return -np.log(np.arange(1, len(candidates) + 1, dtype=np.float64))
