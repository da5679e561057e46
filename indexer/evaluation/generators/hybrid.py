"""The one score: personas beside EASE with personas as hypothetical users.

It orders what `PersonaReranker.recommend` orders, with weights, length and decay of the history
chosen on validation items, after the fit of the collaborative part. Given the lists of another
generator, it may also order these, as `PersonaReranker.rerank` does, with that generator's score as
the third part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.lines import Refusals
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.generators.base import Fitted, Floats
from indexer.evaluation.interactions import Indexes, Interactions
from indexer.tuning.cases import Scores, listed, mean_user, proposals
from indexer.tuning.weights import FORMS, every_weighting
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import (
    EncodedHistories,
    UserVector,
    history_texts,
    rows_of_texts,
)
from p4r_qdrant.records import CandidateList, Interaction
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import Columns
from p4r_qdrant.settings import RerankSettings

LENGTHS = (3, 5, 10, 20)
DECAYS = (0.7, 0.85, 1.0)

Vectors = dict[str, UserVector | None]
Proposal = tuple[list[int], Columns]
"""Positions of items, and the parts of their scores."""
Propose = Callable[[Sequence[str]], Iterable[Proposal]]
"""What is proposed for each of some users."""


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

    def vectors(self, length: int, decay: float) -> Vectors:
        """h_u of each user (Eq. 7)."""
        return dict(zip(self.users, self.encoded.user_vectors(length, decay), strict=True))


@dataclass(frozen=True)
class Hybrid:
    """What the one score is made of.

    training: with an item for each of the personas. model: the collaborative part.
    """

    training: Interactions
    personas: PersonaVectors
    profiles: UserTexts
    model: Fitted

    def of_catalogue(self) -> Iterator[Fitted]:
        """Each weight of the persona score, for each form of it, length and decay of the history:
        what `recommend` orders.
        """
        for options, length, decay in product(FORMS, LENGTHS, DECAYS):
            scores, vectors = self._scores(options, length, decay)

            def propose(
                users: Sequence[str], scores: Scores = scores, vectors: Vectors = vectors
            ) -> Iterable[Proposal]:
                return proposals(scores, users, [vectors.get(one) for one in users])

            known = {"length": length, "history_decay": decay}
            yield from self._weighed(propose, options, known, has_generator=False)

    def of_lists(self, lists: Path, like: Fitted) -> Iterator[Fitted]:
        """Each weight of all three parts, for each form: what `rerank` orders of a generator's
        lists. like: a model of `of_catalogue`, whose length and decay are kept.
        """
        length = like.settings.get("length", LENGTHS[-2])
        decay = like.settings.get("history_decay", DECAYS[1])
        held = {one.user_id: one for one in read_candidates(lists, Refusals())}
        place = {item: at for at, item in enumerate(self.training.items)}
        for options in FORMS:
            scores, vectors = self._scores(options, length, decay)

            def propose(
                users: Sequence[str], scores: Scores = scores, vectors: Vectors = vectors
            ) -> Iterable[Proposal]:
                own = [held.get(one) or CandidateList(user_id=one, results=[]) for one in users]
                found = listed(scores, own, [vectors.get(one) for one in users])
                return (([place[item] for item in items], columns) for items, columns in found)

            known = {"length": length, "history_decay": decay, "lists": lists.stem}
            yield from self._weighed(propose, options, known, has_generator=True)

    def _scores(self, options: RerankSettings, length: int, decay: float) -> tuple[Scores, Vectors]:
        vectors = self.profiles.vectors(length, decay)
        typical = mean_user(vectors.values())
        return Scores(self.training, self.personas, self.model, options, typical), vectors

    def _weighed(
        self,
        propose: Propose,
        options: RerankSettings,
        known: dict[str, Any],
        *,
        has_generator: bool,
    ) -> Iterator[Fitted]:
        proposed = _Proposed(self.training, propose)
        for weights in every_weighting(has_generator=has_generator):
            settings = {
                **self.model.settings,
                **known,
                "interests": options.interests,
                "prior": options.prior,
                "personas": weights.personas,
                **({"generator": weights.generator} if has_generator else {}),
            }
            yield Fitted(settings, partial(proposed.scores, weights=weights))


class _Proposed:
    """What is proposed for users, with the parts of their scores; kept for the next weights."""

    def __init__(self, training: Interactions, propose: Propose) -> None:
        self._training = training
        self._propose = propose
        self._kept: dict[bytes, _Block] = {}

    def scores(self, rows: Indexes, weights: Weights) -> Floats:
        """The one score, (len(rows), n_items); minus infinity for items that nothing proposes."""
        key = rows.tobytes()
        if key not in self._kept:
            users = [self._training.users[row] for row in rows]
            self._kept[key] = _Block.of(self._propose(users))
        block = self._kept[key]
        result = np.full((len(rows), len(self._training.items)), -np.inf)
        result[block.users, block.items] = block.combined(weights)
        return result


@dataclass(frozen=True, slots=True)
class _Block:
    """What is proposed for some users, one after the other: n items in all.

    users: (n,) int64, the row of the user. items: (n,) int64, the position of the item.
    parts: (3, n) float64, the parts of the score; 0 where one is missing.
    there: (3, n_users) bool, which parts each user has.
    """

    users: Indexes
    items: Indexes
    parts: Floats
    there: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, proposed: Iterable[Proposal]) -> _Block:
        items, columns = zip(*proposed, strict=True)
        counts = [len(one) for one in items]
        parts = [
            np.concatenate(
                [np.zeros(n) if one is None else one for one, n in zip(part, counts, strict=True)]
            )
            for part in zip(*columns, strict=True)
        ]
        return cls(
            np.repeat(np.arange(len(counts)), counts),
            np.array([*chain(*items)], dtype=np.int64),
            np.array(parts),
            np.array([[one is not None for one in part] for part in zip(*columns, strict=True)]),
        )

    def combined(self, weights: Weights) -> Floats:
        """The score of every proposed item, (n,), as `standard.combined` has it for one list.

        It is 0 where no part that a user has gets a weight.
        """
        given = np.array([weights.personas, weights.collaborative, weights.generator])
        shares = np.where(self.there, given[:, None], 0.0)
        total = shares.sum(axis=0)
        shares /= np.where(total, total, 1.0)
        first, second, third = self.parts * shares[:, self.users]
        scores: Floats = first + second + third
        return scores
