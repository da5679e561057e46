"""Persona scores of candidates in NumPy, from cached vectors: what the ablations vary.

The online reranker computes Eq. 10, with `interests` and `prior` where it is told to; the other
forms here are experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from indexer.artifacts.folder import Histories
from indexer.evaluation.experiment import lexical as words
from indexer.evaluation.experiment.pool import Indexes, Pool
from indexer.evaluation.metrics import Floats
from p4r_qdrant.encoder.base import Encoder, newest_first
from p4r_qdrant.records import Interaction

USERS_AT_ONCE = 128

Vectors = npt.NDArray[np.float32]
Aggregation = Literal["maximum", "mean", "soft"]


@dataclass(frozen=True)
class Personas:
    """Vectors of an item-by-item list of personas (or of any texts that stand for items).

    vectors: (n_personas, dim) float32, unit rows. starts: (n_items + 1,), where each item's
    begin. items: their ids. texts: what was encoded, one for each row; empty where the vectors
    are of no single text.
    """

    items: list[str]
    vectors: Vectors
    starts: Indexes
    texts: Sequence[str] = ()

    @classmethod
    def of(cls, texts: Iterable[tuple[str, Sequence[str]]], encoder: Encoder) -> Personas:
        """Encode (item id, texts); items without a text are left out."""
        told = [(item, own) for item, own in texts if own]
        flat = [text for _, own in told for text in own]
        starts = np.cumsum([0, *(len(own) for _, own in told)])
        return cls([item for item, _ in told], encoder.encode_texts(flat), starts, flat)

    def truncated(self, most: int) -> Personas:
        """Only the first `most` personas of each item."""
        keep = np.concatenate(
            [np.arange(start, min(start + most, end)) for start, end in self._spans()]
        )
        counts = [min(most, end - start) for start, end in self._spans()]
        return Personas(self.items, self.vectors[keep], np.cumsum([0, *counts]))

    def merged(self) -> Personas:
        """One vector an item: the mean of its personas', of unit length."""
        sums = np.add.reduceat(self.vectors, self.starts[:-1], axis=0)
        unit = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return Personas(self.items, unit.astype(np.float32), np.arange(len(self.items) + 1))

    def _spans(self) -> list[tuple[int, int]]:
        return list(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True))


@dataclass(frozen=True)
class Profiles:
    """What users did, newest first, as vectors of Eq. 6.

    rows: (n_users, longest) int64, positions in `vectors` and `texts`; -1 for an interaction that
    says nothing, and behind the end. ratings: (n_users, longest) float64, NaN where not known.
    """

    users: list[str]
    vectors: Vectors
    rows: Indexes
    ratings: Floats
    texts: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        histories: Histories,
        users: Sequence[str],
        encoder: Encoder,
        text: Callable[[Interaction], str],
        longest: int,
    ) -> Profiles:
        """Encode the texts of these users' `longest` newest interactions."""
        told = [newest_first(histories.get(user), longest) for user in users]
        distinct: dict[str, int] = {}
        rows = np.full((len(users), longest), -1, dtype=np.int64)
        ratings = np.full((len(users), longest), np.nan)
        for user, history in enumerate(told):
            for place, one in enumerate(history):
                said = text(one)
                if said:
                    rows[user, place] = distinct.setdefault(said, len(distinct))
                if one.rating is not None:
                    ratings[user, place] = one.rating
        texts = list(distinct)
        return cls(list(users), encoder.encode_texts(texts), rows, ratings, texts)

    def newest(self, length: int) -> Profiles:
        """Only the `length` newest interactions."""
        return replace(self, rows=self.rows[:, :length], ratings=self.ratings[:, :length])

    def without(self, most: float) -> Profiles:
        """Without interactions rated `most` or less, unless a user has no others."""
        disliked = self.ratings <= most
        liked = (self.rows >= 0) & ~disliked
        drop = disliked & liked.any(axis=1, keepdims=True)
        return replace(self, rows=np.where(drop, -1, self.rows))

    def disliked(self, most: float) -> Profiles:
        """Only interactions rated `most` or less, of users who have others."""
        liked = self.without(most)
        return replace(self, rows=np.where(liked.rows >= 0, -1, self.rows))

    def weights(self, decay: float) -> Floats:
        """g^(j-1) of the j-th interaction that says something (Eq. 7); 0 for the others."""
        there = self.rows >= 0
        place = np.cumsum(there, axis=1) - 1
        return np.where(there, decay ** place.astype(np.float64), 0.0)

    def means(self, decay: float) -> Vectors:
        """h_u (Eq. 7): (n_users, dim) float32; NaN for users without a direction."""
        there = self.rows >= 0
        weights = self.weights(decay)
        result = np.full((len(self.rows), self.vectors.shape[1]), np.nan, dtype=np.float32)
        for user in np.flatnonzero(there.any(axis=1)):
            own = self.vectors[self.rows[user, there[user]]].astype(np.float64)
            mean = weights[user, there[user]] @ own
            norm = float(np.linalg.norm(mean))
            if norm >= 1e-9 * float(weights[user].sum()):
                result[user] = mean / norm
        return result


@dataclass(frozen=True)
class Scorer:
    """How users and personas make scores of items.

    interests, prior: those of `RerankSettings`, of the reranker. dislikes: how much of the
    similarity to what the user disliked (`disliked` or less stars) is taken off; the rest of the
    history is what was liked. words: share of a comparison of words (see `words.py`), the encoder
    has the rest. aggregation: of an item's personas, `maximum` (Eq. 10), `mean`, or `soft`, a
    maximum that also counts the others (temperature).
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
        offsets = self.prior * (typical(means) @ personas.vectors.T) if self.prior else 0.0
        disliked = profiles.disliked(self.disliked).means(self.decay) if self.dislikes else None
        by_words = words.Similarities(liked, personas, self.decay) if self.words else None
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
        """Where each candidate's scores are; one behind the last for items without personas."""
        places = {item: place for place, item in enumerate(personas.items)}
        nowhere = len(personas.items)
        of_item = np.array([places.get(item, nowhere) for item in pool.items] + [nowhere])
        return of_item[pool.candidates]  # -1 finds the last, which is nowhere

    def _similarities(
        self, profiles: Profiles, means: Vectors, block: slice, personas: Personas
    ) -> Floats:
        """(n, n_personas) float64: how near each user is to each persona."""
        near: Floats = (means[block] @ personas.vectors.T).astype(np.float64)
        if self.interests:
            near *= 1 - self.interests
            for user, own in enumerate(profiles.rows[block]):
                told = own[own >= 0]
                if len(told):
                    each = profiles.vectors[told] @ personas.vectors.T
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


def typical(means: Vectors) -> Vectors:
    """The mean of the users that have a direction: (dim,) float32."""
    known = means[~np.isnan(means).any(axis=1)]
    mean: Vectors = known.mean(axis=0) if len(known) else np.zeros(means.shape[1], np.float32)
    return mean
