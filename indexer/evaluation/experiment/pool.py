"""Candidates as arrays, and the rank of a held-out item by other scores.

The order is the reranker's: best score first, ties by item id, then the candidates without a score
in the generator's order. A test compares both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.lines import Refusals
from indexer.metrics import Floats, Ranks

Indexes = npt.NDArray[np.int64]
Known = npt.NDArray[np.bool_]

NOBODY = -2
"""Instead of a target's position: the user has no such held-out item."""


@dataclass(frozen=True)
class Pool:
    """The candidates of some users, best first.

    candidates: (n_users, n) int64, positions in `items`, which are in alphabetical order; shorter
    lists are padded with -1. scores: (n_users, n) float64, the generator's.
    """

    users: list[str]
    items: list[str]
    candidates: Indexes
    scores: Floats

    def first(self, count: int) -> Pool:
        """The first `count` candidates of each user."""
        return Pool(self.users, self.items, self.candidates[:, :count], self.scores[:, :count])

    def lists(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Each user with candidates, their ids and scores."""
        rows = zip(self.candidates.tolist(), self.scores.tolist(), strict=True)
        for user, (places, scores) in zip(self.users, rows, strict=True):
            own = [(self.items[at], one) for at, one in zip(places, scores, strict=True) if at >= 0]
            if own:
                yield user, own

    def targets(self, wanted: Sequence[str | None]) -> Indexes:
        """The position of each user's item; -1 if no list has it, NOBODY if it is None."""
        places = {item: place for place, item in enumerate(self.items)}
        found = [NOBODY if item is None else places.get(item, -1) for item in wanted]
        return np.array(found, dtype=np.int64)

    def generator_ranks(self, targets: Indexes) -> Ranks:
        """The ranks of the targets in the generator's order."""
        found, column = self._columns(targets)
        return np.where(found, column + 1, 0)

    def ranks(self, scores: Floats, targets: Indexes) -> Ranks:
        """The ranks of the targets by other scores, (n_users, n); NaN is no score."""
        found, column = self._columns(targets)
        users = np.arange(len(self.candidates))
        own, there = scores[users, column], self.candidates >= 0
        scored = ~np.isnan(scores) & there
        better = scores > own[:, None]
        equal = (scores == own[:, None]) & (self.candidates < targets[:, None])
        ahead = np.sum(scored & (better | equal), axis=1)
        earlier = np.arange(scores.shape[1]) < column[:, None]
        behind = np.sum(scored, axis=1) + np.sum(~scored & there & earlier, axis=1)
        return np.where(found, 1 + np.where(np.isnan(own), behind, ahead), 0)

    def fused(self, scores: Floats, weight: float, known: Known | None = None) -> Floats:
        """Weighted fusion of these scores and the generator's, both scaled to 0..1.

        weight: the share of these scores. A candidate without a score gets the generator's. Users
        that are not `known`, (n_users,) bool, keep the generator's order; by default these are the
        users without any score.
        """
        there = self.candidates >= 0
        generator = _min_max(np.where(there, self.scores, np.nan))
        own = _min_max(np.where(there, scores, np.nan))
        mixed = weight * np.where(np.isnan(own), generator, own) + (1 - weight) * generator
        if known is None:
            known = np.asarray(np.isfinite(scores).any(axis=1))
        return np.where(known[:, None], mixed, np.nan)

    def _columns(self, targets: Indexes) -> tuple[npt.NDArray[np.bool_], Indexes]:
        same = (self.candidates == targets[:, None]) & (targets[:, None] >= 0)
        return same.any(axis=1), same.argmax(axis=1)


def read_pool(path: Path, users: Sequence[str]) -> Pool:
    """The lists of these users; users without one are skipped. Repeated items count once.

    Where a list lacks scores, 1 / place is the score of each of its items.
    """
    wanted = set(users)
    lists: dict[str, dict[str, float]] = {}
    for one in read_candidates(path, Refusals()):
        if one.user_id in wanted:
            own = lists.setdefault(one.user_id, {})
            lacking = any(candidate.score is None for candidate in one.results)
            for place, candidate in enumerate(one.results, start=1):
                score = 1 / place if lacking else candidate.score or 0.0
                own.setdefault(candidate.item_id, score)
    items = sorted({item for own in lists.values() for item in own})
    places = {item: place for place, item in enumerate(items)}
    longest = max((len(own) for own in lists.values()), default=1)
    candidates = np.full((len(users), longest), -1, dtype=np.int64)
    scores = np.full((len(users), longest), np.nan)
    for row, user in enumerate(users):
        own = lists.get(user, {})
        candidates[row, : len(own)] = [places[item] for item in own]
        scores[row, : len(own)] = list(own.values())
    return Pool(list(users), items, candidates, scores)


def _min_max(scores: Floats) -> Floats:
    """Scale each row to 0..1; 0.5 if all values are equal, NaN if there are none."""
    known = ~np.isnan(scores)
    low = np.min(np.where(known, scores, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(known, scores, -np.inf), axis=1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    scaled = np.where(high > low, (scores - low) / spread, 0.5)
    return np.where(known, scaled, np.nan)
