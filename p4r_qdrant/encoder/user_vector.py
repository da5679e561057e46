"""The user vector: the decayed mean of the newest interactions (Eq. 6-7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.records import Because, Interaction


@dataclass(frozen=True, slots=True)
class UserVector:
    """h_u and the interactions that it is made of.

    vector: (dim,) float32, L2-normalised. interactions: newest first. embeddings: (L, dim)
    float32, their e_uj. weights: (L,) float32 such that `weights @ embeddings == vector`.
    """

    vector: Floats
    interactions: tuple[Interaction, ...]
    embeddings: Floats
    weights: Floats

    def directions(self, interests: float) -> Floats:
        """The query vectors of the user, of which the best counts: (k, dim) float32.

        Without `interests` h_u alone; else (0..1) one for each interaction:
        (1 - interests) h_u + interests e_uj.
        """
        if not interests:
            return self.vector[None]
        mixed: Floats = (1 - interests) * self.vector + np.float32(interests) * self.embeddings
        return mixed

    def because(self, persona_vector: Floats, interests: float = 0.0) -> tuple[Because, ...]:
        """What each interaction contributes to the score of a persona, largest first.

        With `interests` the first one is the interaction whose direction won; with interests at 1
        it is the only one.
        """
        similarities = self.embeddings @ persona_vector
        weights = (1 - interests) * self.weights
        winner = int(np.argmax(similarities))  # of equals the newest
        weights[winner] += interests
        contributions = weights * similarities
        score = float(contributions.sum())
        shares = contributions / score if score else np.zeros_like(contributions)
        # Rows of plain values sort and become records many times as fast as objects do.
        rows = list(
            zip(
                (-contributions).tolist(),
                [one.item_id for one in self.interactions],
                [one.title for one in self.interactions],
                contributions.tolist(),
                shares.tolist(),
                strict=True,
            )
        )
        first = [rows.pop(winner)] if interests else []
        rows.sort()
        shown = (*first, *(rows if interests < 1 else ()))
        return tuple(Because(*row[1:]) for row in shown)


def newest_first(history: Sequence[Interaction], length: int) -> tuple[Interaction, ...]:
    """H_u: the `length` most recent interactions; ties in time are ordered by item id."""
    ordered = sorted(history, key=lambda one: (one.timestamp, one.item_id), reverse=True)
    return tuple(ordered[:length])


def history_texts(history: Sequence[Interaction], length: int) -> list[tuple[Interaction, str]]:
    """H_u with the texts of its interactions (Eq. 6), newest first; those without are skipped."""
    pairs = ((one, texts.interaction_text(one)) for one in newest_first(history, length))
    return [(one, text) for one, text in pairs if text]


def decay_weights(length: int, decay: float) -> npt.NDArray[np.float64]:
    """g^(j-1) for j = 1..length (Eq. 7): (length,) float64."""
    weights: npt.NDArray[np.float64] = decay ** np.arange(length, dtype=np.float64)
    return weights


def rows_of_texts(histories: Iterable[Sequence[tuple[Interaction, str]]]) -> dict[str, int]:
    """The distinct texts of histories as `history_texts` returns them, numbered in order."""
    texts_once = dict.fromkeys(text for history in histories for _, text in history)
    return {text: row for row, text in enumerate(texts_once)}


@dataclass(frozen=True, slots=True)
class EncodedHistories:
    """Histories whose texts are encoded: user vectors of any length and decay (Eq. 7).

    histories: newest first, as `history_texts` returns them. row_of: the row of each text in
    embeddings, (n_texts, dim) float32.
    """

    histories: Sequence[Sequence[tuple[Interaction, str]]]
    row_of: Mapping[str, int]
    embeddings: Floats

    def user_vectors(self, length: int, decay: float) -> list[UserVector | None]:
        """h_u of the `length` newest interactions of each history, None where there is none."""
        vectors = []
        for history in self.histories:
            recent = history[:length]
            rows = np.array([self.row_of[text] for _, text in recent], dtype=np.intp)
            vectors.append(user_vector([one for one, _ in recent], self.embeddings[rows], decay))
        return vectors


class DecayedMean(NamedTuple):
    """vector: (dim,) float32, L2-normalised. weights: (L,) float32, of each embedding in it."""

    vector: Floats
    weights: Floats


def decayed_mean(embeddings: Floats, decay: float) -> DecayedMean | None:
    """The decayed mean of embeddings, (L, dim) float32, newest first, L2-normalised (Eq. 7).

    Returns None if there is no embedding, or if they cancel out.
    """
    if not len(embeddings):
        return None
    weights = decay_weights(len(embeddings), decay)
    mean = weights @ embeddings.astype(np.float64)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-9 * float(weights.sum()):
        return None
    return DecayedMean((mean / norm).astype(np.float32), (weights / norm).astype(np.float32))


def user_vector(
    interactions: Sequence[Interaction], embeddings: Floats, decay: float
) -> UserVector | None:
    """h_u of interactions, newest first, from their embeddings, (L, dim) float32 (Eq. 7).

    Returns None if there is no interaction, or if the embeddings cancel out.
    """
    mean = decayed_mean(embeddings, decay)
    if mean is None:
        return None
    return UserVector(mean.vector, tuple(interactions), embeddings, mean.weights)
