"""Measure an encoder: rerank the candidates among which is a user's validation item.

Test items are never read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import CANDIDATES, SPLITS
from indexer.artifacts.splits import read_splits
from indexer.metrics import Ranks, ndcg, reciprocal_ranks
from indexer.training.pairs import Catalogue, TrainingData
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import EncodedHistories, history_texts, rows_of_texts
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Interaction, Split

MOST_USERS = 2000
MOST_ITEMS = 1000
LEAST_LISTS = 10
"""With fewer lists that contain the validation item, the catalogue is ranked instead."""

LONGEST_HISTORY = 50
"""The most interactions of a user that are encoded, also by `p4r tune`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over users of reranking; each user has one relevant item.

    ranks: (n_users,) int64, from 1.
    """

    ranks: Ranks

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank, without a cutoff."""
        return float(reciprocal_ranks(self.ranks).mean())

    @property
    def ndcg(self) -> float:
        """NDCG@10."""
        return ndcg(self.ranks)


@dataclass(frozen=True, slots=True)
class Case:
    """A user whose held-out item must be found among candidates.

    target, candidates: positions in the catalogue.
    """

    user_id: str
    history: tuple[Interaction, ...]
    target: int
    candidates: tuple[int, ...]


@dataclass(frozen=True)
class Validation:
    """The users to validate on. what: a description of the ranked candidates."""

    catalogue: Catalogue
    cases: Sequence[Case]
    what: str

    @classmethod
    def read(cls, data: TrainingData, refusals: Refusals, seed: int = 0) -> Validation:
        """The users of splits.jsonl whose validation item has personas and who have a history.

        The candidates come from the lists of candidates.jsonl that contain the validation item. If
        there are too few such lists, they are the catalogue (a sample, if it is large) without the
        items of the user's history.

        Raises InputError if no user has a validation item.
        """
        folder, catalogue = data.folder, data.catalogue
        splits = list(_splits(folder, refusals, seed))
        lists: Mapping[str, Sequence[str]] = {}
        if folder.has(CANDIDATES):
            lists = {
                one.user_id: [candidate.item_id for candidate in one.results]
                for one in read_candidates(folder.file(CANDIDATES), refusals)
            }
        holding = [one for one in splits if one.valid_item in lists.get(one.user_id, ())]
        from_lists = len(holding) >= LEAST_LISTS
        sample = _sample(catalogue, seed)
        cases = []
        for split in holding if from_lists else splits:
            target = catalogue.items.get(split.valid_item or "")
            history = tuple(data.histories.get(split.user_id))
            if target is None or not history_texts(history, LONGEST_HISTORY):
                continue
            seen = {catalogue.items.get(one.item_id) for one in history}
            if from_lists:
                named = (catalogue.items.get(one) for one in lists[split.user_id])
                candidates = tuple(dict.fromkeys(one for one in named if one is not None))
            else:
                candidates = tuple(sorted({target, *(one for one in sample if one not in seen)}))
            cases.append(Case(split.user_id, history, target, candidates))
        if not cases:
            raise InputError(
                f"{folder.path / SPLITS} names no user with a history and a validation item that "
                "has personas, so training cannot be validated; `p4r prepare` writes such splits"
            )
        what = CANDIDATES if from_lists else f"{len(sample):,} items of the catalogue"
        return cls(catalogue, cases, f"{len(cases):,} users, {what}")

    def measure(self, encoder: Encoder, length: int, decay: float) -> Metrics:
        """Metrics of an encoder with this history length and decay."""
        return self.encoded(encoder, length).measure(length, decay)

    def encoded(self, encoder: Encoder, length: int = LONGEST_HISTORY) -> Encoded:
        """Encode each text once. The result can measure any decay, and lengths up to `length`."""
        items = sorted({one for case in self.cases for one in case.candidates})
        personas = [one for item in items for one in self.catalogue.personas_of(item)]
        rows = {persona: row for row, persona in enumerate(personas)}
        histories = [history_texts(case.history, length) for case in self.cases]
        row_of = rows_of_texts(histories)
        return Encoded(
            self,
            EncodedHistories(histories, row_of, encoder.encode_queries(list(row_of))),
            encoder.encode_documents([self.catalogue.texts[one] for one in personas]),
            {item: rows[self.catalogue.starts[item]] for item in items},
        )


@dataclass(frozen=True)
class Encoded:
    """A validation with its vectors. personas: (n, dim); an item's rows begin at `starts`."""

    validation: Validation
    users: EncodedHistories
    personas: Floats
    starts: Mapping[int, int]

    def measure(self, length: int, decay: float) -> Metrics:
        """Rank each user's candidates by their best persona (Eq. 7, 10); ties by item id."""
        places = {item: place for place, item in enumerate(self.starts)}
        names = list(self.validation.catalogue.items)
        ranks = []
        users = self.users.user_vectors(length, decay)
        for case, user in zip(self.validation.cases, users, strict=True):
            if user is None:
                ranks.append(len(case.candidates))
                continue
            best = np.maximum.reduceat(self.personas @ user.vector, list(self.starts.values()))
            target = best[places[case.target]]
            name = names[case.target]
            before = sum(
                best[places[one]] > target or (best[places[one]] == target and names[one] < name)
                for one in case.candidates
            )
            ranks.append(int(before) + 1)
        return Metrics(np.array(ranks, dtype=np.int64))


def _splits(folder: ArtifactFolder, refusals: Refusals, seed: int) -> Sequence[Split]:
    """The splits with a validation item; a random sample if there are many."""
    found = [
        split
        for _, split in read_splits(folder.file(SPLITS), refusals)
        if split.valid_item is not None
    ]
    if len(found) > MOST_USERS:
        found = random.Random(seed).sample(found, MOST_USERS)  # noqa: S311 - no secret
    return found


def _sample(catalogue: Catalogue, seed: int) -> Sequence[int]:
    items = range(len(catalogue.items))
    return random.Random(seed).sample(items, MOST_ITEMS) if len(items) > MOST_ITEMS else items  # noqa: S311
