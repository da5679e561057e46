"""Candidates as arrays, and where a held-out item stands when they are scored anew.

The order is the reranker's: best score first, ties by item id, what has no score behind in the
generator's order. A test holds the two together.
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
"""In place of a target's position: this user has no such held-out item."""


@dataclass(frozen=True)
class Pool:
    """The candidates of some users, best first.

    candidates: (n_users, n) int64, positions in `items`, which are in alphabetical order; -1
    behind the end of a shorter list. scores: (n_users, n) float64, the generator's.
    """

    users: list[str]
    items: list[str]
    candidates: Indexes
    scores: Floats

    def first(self, count: int) -> Pool:
        """The first so many candidates of each user."""
        return Pool(self.users, self.items, self.candidates[:, :count], self.scores[:, :count])

    def lists(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Each user who has candidates, with their ids and scores."""
        rows = zip(self.candidates.tolist(), self.scores.tolist(), strict=True)
        for user, (places, scores) in zip(self.users, rows, strict=True):
            own = [(self.items[at], one) for at, one in zip(places, scores, strict=True) if at >= 0]
            if own:
                yield user, own

    def targets(self, wanted: Sequence[str | None]) -> Indexes:
        """Positions of an item for each user; -1 where nobody lists it, NOBODY where it is None."""
        places = {item: place for place, item in enumerate(self.items)}
        found = [NOBODY if item is None else places.get(item, -1) for item in wanted]
        return np.array(found, dtype=np.int64)

    def generator_ranks(self, targets: Indexes) -> Ranks:
        """Where the generator has put the targets."""
        found, column = self._columns(targets)
        return np.where(found, column + 1, 0)

    def ranks(self, scores: Floats, targets: Indexes) -> Ranks:
        """Where the targets stand by other scores, (n_users, n); NaN for what has none."""
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
        """`weight` of these scores and the rest of the generator's, both scaled to 0..1.

        A candidate without a score gets the generator's. Users who are not `known`, (n_users,)
        bool, keep the generator's order; by default those without any score.
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
    """The lists of these users; nothing for those who have none. Repeated items count once.

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
    """Each row scaled to 0..1; 0.5 where all are the same, NaN where there is none."""
    known = ~np.isnan(scores)
    low = np.min(np.where(known, scores, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(known, scores, -np.inf), axis=1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    scaled = np.where(high > low, (scores - low) / spread, 0.5)
    return np.where(known, scaled, np.nan)
