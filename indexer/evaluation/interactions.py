"""Training interactions as arrays: what is left of reviews.jsonl when the held-out ones are out."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ASPECTS, REVIEWS
from indexer.progress import SILENT, Progress, track
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Rating, Timestamp

Indexes = npt.NDArray[np.int64]


class _Pair(BaseModel):
    """A review without its texts. The rating is not needed, but checked as everywhere."""

    model_config = ConfigDict(extra="ignore")

    user_id: Id
    item_id: Id
    rating: Rating | None = None
    timestamp: Timestamp | None = None


@dataclass(frozen=True)
class Interactions:
    """Distinct (user, item) pairs by position: user_of and item_of, (n,) int64, sorted by both.

    age_of: (n,) int64, how many of the user's items are newer; ties by item id, as everywhere.
    users, items: ids in alphabetical order, so that the file's order changes nothing; only those
    with a training interaction. known_items: every item the file names, held out or not.
    """

    users: list[str]
    items: list[str]
    user_of: Indexes
    item_of: Indexes
    age_of: Indexes
    known_items: frozenset[str]

    def with_items(self, ids: Iterable[str]) -> Interactions:
        """The same interactions among more items, which may have none."""
        items = sorted({*self.items, *ids})
        places = {item: place for place, item in enumerate(items)}
        new = np.array([places[item] for item in self.items], dtype=np.int64)
        known = self.known_items | set(items)
        # Alphabetical order stays, and with it that of the pairs.
        return Interactions(self.users, items, self.user_of, new[self.item_of], self.age_of, known)

    def without_items(self, ids: Collection[str]) -> Interactions:
        """Without the interactions of these items; the items stay known."""
        gone = np.array([item in ids for item in self.items], dtype=bool)
        kept = ~gone[self.item_of]
        users, user_of = np.unique(self.user_of[kept], return_inverse=True)
        item_of = (np.cumsum(~gone) - 1)[self.item_of[kept]]
        # What was older stays older among those that are left.
        ages = _ages(user_of, item_of, -self.age_of[kept].astype(np.float64))
        return Interactions(
            [self.users[user] for user in users],
            [item for item in self.items if item not in ids],
            user_of,
            item_of,
            ages,
            self.known_items,
        )

    def user_counts(self) -> Indexes:
        """(n_users,): distinct items of each user."""
        return np.bincount(self.user_of, minlength=len(self.users)).astype(np.int64)

    def item_counts(self) -> Indexes:
        """(n_items,): distinct users of each item."""
        return np.bincount(self.item_of, minlength=len(self.items)).astype(np.int64)


def files_of_interactions(folder: ArtifactFolder) -> list[Path]:
    """The files of a folder that say who chose what, of those that there are."""
    return [folder.at(name) for name in (REVIEWS, ASPECTS) if folder.has(name)]


def read_interactions(
    reviews: Path,
    held_out: Collection[tuple[str, str]],
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Interactions:
    """Read reviews.jsonl without the pairs in `held_out`; a repeated pair counts once.

    Raises InputError where nothing is left.
    """
    found = interactions_in([reviews], held_out, refusals, progress)
    if not found.users:
        raise InputError(f"{reviews} holds no training interaction: all are held out, or none read")
    return found


def interactions_in(
    files: Sequence[Path],
    held_out: Collection[tuple[str, str]],
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Interactions:
    """Read files of reviews or aspects without the pairs in `held_out`, perhaps nothing.

    A pair that is repeated, in one file or in several, counts once.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    held_items: set[str] = set()
    pairs, times = array("q"), array("d")
    for file in files:
        lines = read_lines(file, _Pair, refusals)
        for _, _, line in track(progress, lines, f"reading {file.name}"):
            if (line.user_id, line.item_id) in held_out:
                held_items.add(line.item_id)
                continue
            pairs.append(users.setdefault(line.user_id, len(users)))
            pairs.append(items.setdefault(line.item_id, len(items)))
            times.append(-inf if line.timestamp is None else line.timestamp)
    if not pairs:
        none = np.zeros(0, dtype=np.int64)
        return Interactions([], [], none, none, none, frozenset(held_items))
    user_of, item_of = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2).T
    codes, pair_of = np.unique(
        _by_name(users)[user_of] * len(items) + _by_name(items)[item_of], return_inverse=True
    )
    newest = np.full(len(codes), -np.inf)
    np.maximum.at(newest, pair_of, np.frombuffer(times))
    user_of, item_of = codes // len(items), codes % len(items)
    return Interactions(
        sorted(users),
        sorted(items),
        user_of,
        item_of,
        _ages(user_of, item_of, newest),
        frozenset(items) | held_items,
    )


def _ages(user_of: Indexes, item_of: Indexes, times: npt.NDArray[np.float64]) -> Indexes:
    """How many of the same user's interactions are newer; `user_of` is sorted."""
    order = np.lexsort((-item_of, -times, user_of))
    ages = np.empty(len(order), dtype=np.int64)
    ages[order] = np.arange(len(order)) - np.searchsorted(user_of, user_of)
    return ages


def _by_name(places: dict[str, int]) -> Indexes:
    """New position of each old one when ids are sorted."""
    positions = np.empty(len(places), dtype=np.int64)
    for new, name in enumerate(sorted(places)):
        positions[places[name]] = new
    return positions


def pairs_hash(pairs: Iterable[tuple[str, str]]) -> str:
    """A hash of exactly these (user, item) pairs, whatever their order."""
    digest = hashlib.sha256()
    for user, item in sorted(pairs):
        digest.update(f"{user}\x00{item}\n".encode())
    return digest.hexdigest()


def training_hash(training: Interactions) -> str:
    """`pairs_hash` of training interactions."""
    places = zip(training.user_of.tolist(), training.item_of.tolist(), strict=True)
    return pairs_hash((training.users[user], training.items[item]) for user, item in places)
