"""Personas and profiles of users as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.experiment.pool import Indexes
from indexer.metrics import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import decay_weights, decayed_mean, newest_first
from p4r_qdrant.records import Interaction

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Personas(PersonaVectors):
    """Vectors of personas, item by item (or of other texts that describe items).

    texts: the encoded text of each row; empty if a vector is not the vector of one text.
    """

    texts: Sequence[str] = ()

    @classmethod
    def of(cls, texts: Iterable[tuple[str, Sequence[str]]], encoder: Encoder) -> Personas:
        """Encode (item id, texts); items without a text are skipped."""
        with_texts = [(item, own) for item, own in texts if own]
        flat = [text for _, own in with_texts for text in own]
        starts = np.cumsum([0, *(len(own) for _, own in with_texts)])
        return cls([item for item, _ in with_texts], encoder.encode_documents(flat), starts, flat)

    def truncated(self, most: int) -> Personas:
        """Only the first `most` personas of each item."""
        keep = np.concatenate(
            [np.arange(start, min(start + most, end)) for start, end in self._spans()]
        )
        counts = [min(most, end - start) for start, end in self._spans()]
        return Personas(self.items, self.vectors[keep], np.cumsum([0, *counts]))

    def merged(self) -> Personas:
        """One vector for each item: the mean of its personas' vectors, scaled to length 1."""
        sums = np.add.reduceat(self.vectors, self.starts[:-1], axis=0)
        unit = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return Personas(self.items, unit.astype(np.float32), np.arange(len(self.items) + 1))

    def _spans(self) -> list[tuple[int, int]]:
        return list(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True))


@dataclass(frozen=True)
class Profiles:
    """The interactions of users, newest first, as vectors (Eq. 6).

    rows: (n_users, longest) int64, positions in `vectors` and `texts`; -1 for an interaction
    without text and for padding. ratings: (n_users, longest) float64, NaN if unknown.
    """

    users: list[str]
    vectors: Vectors
    rows: Indexes
    ratings: Floats
    texts: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        history_of: Callable[[str], Sequence[Interaction]],
        users: Sequence[str],
        encoder: Encoder,
        text: Callable[[Interaction], str],
        longest: int,
    ) -> Profiles:
        """Encode the texts of these users' `longest` newest interactions."""
        ordered = [newest_first(history_of(user), longest) for user in users]
        distinct: dict[str, int] = {}
        rows = np.full((len(users), longest), -1, dtype=np.int64)
        ratings = np.full((len(users), longest), np.nan)
        for user, history in enumerate(ordered):
            for place, one in enumerate(history):
                said = text(one)
                if said:
                    rows[user, place] = distinct.setdefault(said, len(distinct))
                if one.rating is not None:
                    ratings[user, place] = one.rating
        texts = list(distinct)
        return cls(list(users), encoder.encode_queries(texts), rows, ratings, texts)

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
        """The weight of each interaction (Eq. 7), (n_users, longest); 0 without a text."""
        there = self.rows >= 0
        place = np.maximum(np.cumsum(there, axis=1) - 1, 0)
        return np.where(there, decay_weights(self.rows.shape[1], decay)[place], 0.0)

    def means(self, decay: float) -> Vectors:
        """h_u (Eq. 7): (n_users, dim) float32; NaN for users without a user vector."""
        result = np.full((len(self.rows), self.vectors.shape[1]), np.nan, dtype=np.float32)
        for user, rows in enumerate(self.rows):
            mean = decayed_mean(self.vectors[rows[rows >= 0]], decay)
            if mean is not None:
                result[user] = mean.vector
        return result


def typical_user(means: Vectors) -> Vectors:
    """The mean of all users that have a vector: (dim,) float32."""
    known = means[~np.isnan(means).any(axis=1)]
    mean: Vectors = known.mean(axis=0) if len(known) else np.zeros(means.shape[1], np.float32)
    return mean
