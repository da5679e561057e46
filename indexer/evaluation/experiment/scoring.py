"""Persona scores of candidates in NumPy, from cached vectors, for the ablations.

The online reranker computes Eq. 10, with `interests` and `prior` if the settings ask for them; the
other forms here are experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from indexer.evaluation.experiment.embedded import Personas, Profiles, Vectors, typical_user
from indexer.evaluation.experiment.lexical import LexicalSimilarities
from indexer.evaluation.experiment.pool import Indexes, Pool
from indexer.metrics import Floats

USERS_AT_ONCE = 128


Aggregation = Literal["maximum", "mean", "soft"]


@dataclass(frozen=True)
class Scorer:
    """How items are scored from users and personas.

    interests, prior: see `RerankSettings`. dislikes: the weight of a penalty for similarity to the
    disliked interactions (rated `disliked` or less); the user vector is then made from the others.
    words: the share of the lexical similarity (see lexical.py); the encoder has the rest.
    aggregation: of the scores of an item's personas: `maximum` (Eq. 10), `mean`, or `soft`, a soft
    maximum with `temperature`.
    """

    decay: float = 0.85
    interests: float = 0.0
    prior: float = 0.0
    dislikes: float = 0.0
    disliked: float = 2.0
    words: float = 0.0
    aggregation: Aggregation = "maximum"
    temperature: float = 0.05

    def scores(self, pool: Pool, profiles: Profiles, personas: Personas) -> Floats:
        """(n_users, n) float64 for the pool's candidates; NaN for items without personas and
        users without history. Users of pool and profiles are the same.
        """
        return self.scores_of([pool], profiles, personas)[0]

    def scores_of(
        self, pools: Sequence[Pool], profiles: Profiles, personas: Personas
    ) -> list[Floats]:
        """`scores` for several pools of the same users; users meet personas only once."""
        columns = [self._columns(pool, personas) for pool in pools]
        liked = profiles.without(self.disliked) if self.dislikes else profiles
        means = liked.means(self.decay)
        offsets = self.prior * (typical_user(means) @ personas.vectors.T) if self.prior else 0.0
        disliked = profiles.disliked(self.disliked).means(self.decay) if self.dislikes else None
        by_words = LexicalSimilarities(liked, personas, self.decay) if self.words else None
        results = [np.full(pool.candidates.shape, np.nan) for pool in pools]
        for start in range(0, len(means), USERS_AT_ONCE):
            block = slice(start, start + USERS_AT_ONCE)
            near = self._similarities(liked, means, block, personas)
            if by_words is not None:
                near = (1 - self.words) * near + self.words * by_words.of(block)
            if disliked is not None:
                near -= self.dislikes * np.nan_to_num(disliked[block] @ personas.vectors.T)
            by_item = self._aggregated(near - offsets, personas)
            padded = np.column_stack([by_item, np.full(len(by_item), np.nan)])
            for result, own in zip(results, columns, strict=True):
                result[block] = np.take_along_axis(padded, own[block], axis=1)
        return results

    def _columns(self, pool: Pool, personas: Personas) -> Indexes:
        """The column of each candidate's score; one after the last for items without personas."""
        places = {item: place for place, item in enumerate(personas.items)}
        nowhere = len(personas.items)
        of_item = np.array([places.get(item, nowhere) for item in pool.items] + [nowhere])
        return of_item[pool.candidates]  # -1 selects the last entry: no personas

    def _similarities(
        self, profiles: Profiles, means: Vectors, block: slice, personas: Personas
    ) -> Floats:
        """(n, n_personas) float64: the similarity of each user to each persona."""
        near: Floats = (means[block] @ personas.vectors.T).astype(np.float64)
        if self.interests:
            near *= 1 - self.interests
            for user, own in enumerate(profiles.rows[block]):
                known = own[own >= 0]
                if len(known):
                    each = profiles.vectors[known] @ personas.vectors.T
                    near[user] += self.interests * each.max(axis=0)
        return near

    def _aggregated(self, similarities: Floats, personas: Personas) -> Floats:
        starts = personas.starts[:-1]
        if self.aggregation == "maximum":
            best: Floats = np.maximum.reduceat(similarities, starts, axis=1)
            return best
        counts = np.diff(personas.starts)
        if self.aggregation == "mean":
            means: Floats = np.add.reduceat(similarities, starts, axis=1) / counts
            return means
        soft: Floats = np.logaddexp.reduceat(similarities / self.temperature, starts, axis=1)
        return self.temperature * (soft - np.log(counts))
