"""The one score over the whole catalogue: personas beside EASE with personas as hypothetical users.

It orders what `PersonaReranker.recommend` orders, with weights, length and decay of the history
chosen on validation items, after the fit of the collaborative part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.generators.base import Fitted, Floats
from indexer.evaluation.interactions import Indexes, Interactions
from indexer.tuning.cases import Scores, mean_user, proposals
from indexer.tuning.weights import FORMS, every_weighting
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import (
    EncodedHistories,
    UserVector,
    history_texts,
    rows_of_texts,
)
from p4r_qdrant.records import Interaction
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import Columns, combined

LENGTHS = (3, 5, 10, 20)
DECAYS = (0.7, 0.85, 1.0)


@dataclass(frozen=True)
class UserTexts:
    """The histories of users, encoded, without held-out interactions."""

    users: Sequence[str]
    encoded: EncodedHistories

    @classmethod
    def of(
        cls,
        users: Sequence[str],
        history_of: Callable[[str], Sequence[Interaction]],
        encoder: Encoder,
    ) -> UserTexts:
        """Encode the texts of these users' newest interactions."""
        histories = [history_texts(history_of(user), max(LENGTHS)) for user in users]
        row_of = rows_of_texts(histories)
        vectors = (
            encoder.encode_queries([*row_of])
            if row_of
            else np.zeros((0, encoder.dimension), dtype=np.float32)
        )
        return cls(users, EncodedHistories(histories, row_of, vectors))

    @property
    def hash(self) -> str:
        """A hash of users and texts."""
        pairs = zip(self.users, self.encoded.histories, strict=True)
        content = [(user, [text for _, text in own]) for user, own in pairs]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def vectors(self, length: int, decay: float) -> dict[str, UserVector | None]:
        """h_u of each user (Eq. 7)."""
        return dict(zip(self.users, self.encoded.user_vectors(length, decay), strict=True))


def weighed(
    training: Interactions, personas: PersonaVectors, profiles: UserTexts, model: Fitted
) -> Iterator[Fitted]:
    """The one score with each weight of the persona score, for each form, length and decay of it.

    training: with an item for each of the personas. model: the collaborative part.
    """
    for options, length, decay in product(FORMS, LENGTHS, DECAYS):
        vectors = profiles.vectors(length, decay)
        typical = mean_user(vectors.values())
        found = _Proposed(Scores(training, personas, model, options, typical), vectors)
        for weights in every_weighting(has_generator=False):
            settings = {
                **model.settings,
                "length": length,
                "history_decay": decay,
                "interests": options.interests,
                "prior": options.prior,
                "personas": weights.personas,
            }
            yield Fitted(settings, partial(found.scores, weights=weights))


class _Proposed:
    """What both parts propose for users; it is kept for the next weights."""

    def __init__(self, scores: Scores, vectors: dict[str, UserVector | None]) -> None:
        self._scores = scores
        self._vectors = vectors
        self._kept: dict[bytes, list[tuple[list[int], Columns]]] = {}

    def scores(self, rows: Indexes, weights: Weights) -> Floats:
        """The one score, (len(rows), n_items); minus infinity for items that nothing proposes."""
        training = self._scores.training
        key = rows.tobytes()
        if key not in self._kept:
            users = [training.users[row] for row in rows]
            vectors = [self._vectors.get(user) for user in users]
            self._kept[key] = [*proposals(self._scores, users, vectors)]
        result = np.full((len(rows), len(training.items)), -np.inf)
        for row, (chosen, columns) in zip(result, self._kept[key], strict=True):
            found = combined(columns, weights)
            row[chosen] = 0.0 if found is None else found.scores
        return result
