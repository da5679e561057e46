"""A learned fusion: the weights of a few scores.

A conditional logit over each user's candidates: the weights maximize the likelihood of the
validation items, log softmax(features @ weights), with a small weight decay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from indexer.evaluation.experiment.pool import NOBODY, Indexes, Pool
from indexer.metrics import Floats, Ranks

L2 = 1.0
FOLDS = 5


def features(pool: Pool, scores: list[Floats], *, generator: bool) -> Floats:
    """Features of the candidates, (n_users, n, n_features), each scaled to 0..1.

    They are these scores and, with `generator`, the generator's scores and ranks. A candidate
    without a score gets the generator's score.
    """
    columns = [pool.fused(one, 1.0) for one in scores]
    if generator:
        columns.append(pool.fused(np.zeros_like(pool.scores), 0.0))
        places = np.arange(1, pool.scores.shape[1] + 1)
        columns.append(np.broadcast_to(1 / places, pool.scores.shape))
    return np.stack(columns, axis=-1)


def fit(pool: Pool, inputs: Floats, targets: Indexes) -> Floats:
    """The weights, (n_features,), from users whose target is among their candidates."""
    from scipy.optimize import minimize

    there = pool.candidates >= 0
    same = (pool.candidates == targets[:, None]) & there & ~np.isnan(inputs).any(axis=2)
    users = same.any(axis=1)
    own, known = np.nan_to_num(inputs[users]), there[users]
    chosen = own[np.arange(len(own)), same[users].argmax(axis=1)]

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = np.where(known, own @ weights, -np.inf)
        total = np.logaddexp.reduce(logits, axis=1)
        expected = np.einsum("un,unf->uf", np.exp(logits - total[:, None]), own)
        value = np.sum(total - chosen @ weights) + L2 / 2 * weights @ weights
        return float(value), np.sum(expected - chosen, axis=0) + L2 * weights

    found = minimize(loss, np.zeros(inputs.shape[2]), jac=True, method="L-BFGS-B")
    weights: Floats = found.x
    return weights


def out_of_fold(pool: Pool, inputs: Floats, targets: Indexes) -> Ranks:
    """Ranks of the targets; the weights for a user are fitted to other users."""
    folds: npt.NDArray[np.int64] = np.arange(len(targets)) % FOLDS
    ranks = np.zeros(len(targets), dtype=np.int64)
    for fold in range(FOLDS):
        theirs = folds == fold
        weights = fit(pool, inputs, np.where(theirs, NOBODY, targets))
        ranks[theirs] = pool.ranks(inputs @ weights, targets)[theirs]
    return ranks
