"""What is chosen before a test item is looked at: by NDCG@10 on the validation items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.evaluation.experiment.pool import NOBODY, Indexes, Pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.evaluation.metrics import Floats, ndcg


@dataclass(frozen=True)
class Judged:
    """A generator's pool with the held-out items of its users; -1 where a user has none."""

    pool: Pool
    valid: Indexes
    test: Indexes

    def first(self, count: int) -> Judged:
        """The first so many candidates of each user."""
        return Judged(self.pool.first(count), self.valid, self.test)


def history(
    judged: Sequence[Judged],
    profiles: Profiles,
    personas: Personas,
    lengths: Sequence[int],
    decays: Sequence[float],
) -> list[dict[str, Any]]:
    """NDCG@10 of persona reranking for each length and decay, the mean over generators."""
    rows = []
    for length in lengths:
        for decay in decays:
            scores = Scorer(decay=decay).scores_of(
                [one.pool for one in judged], profiles.newest(length), personas
            )
            values = [valid_ndcg(one, own) for one, own in zip(judged, scores, strict=True)]
            rows.append({"length": length, "decay": decay, "valid": float(np.mean(values))})
    return rows


def options(
    judged: Sequence[Judged],
    profiles: Profiles,
    personas: Personas,
    decay: float,
    interests: Sequence[float],
    priors: Sequence[float],
) -> list[dict[str, Any]]:
    """As `history`, for each share of single interests and each prior."""
    pools = [one.pool for one in judged]
    rows = []
    for share in interests:
        for prior in priors:
            scorer = Scorer(decay=decay, interests=share, prior=prior)
            scores = scorer.scores_of(pools, profiles, personas)
            values = [valid_ndcg(one, own) for one, own in zip(judged, scores, strict=True)]
            rows.append({"interests": share, "prior": prior, "valid": float(np.mean(values))})
    return rows


def weight(judged: Judged, scores: Floats, weights: Sequence[float]) -> tuple[float, float]:
    """The best share of the persona score in weighted fusion, and its NDCG@10."""
    found = [(valid_ndcg(judged, judged.pool.fused(scores, one)), one) for one in weights]
    value, best = max(found, key=lambda one: one[0])
    return best, value


def valid_ndcg(judged: Judged, scores: Floats) -> float:
    """NDCG@10 on the validation items of those who have one."""
    has = judged.valid != NOBODY
    return ndcg(judged.pool.ranks(scores, judged.valid)[has])


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row with the highest `valid`; of equals the first."""
    return max(rows, key=lambda row: row["valid"])
