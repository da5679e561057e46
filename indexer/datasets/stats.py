"""Count what a data set holds. Memory holds ids and counts, never texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.splits import read_splits
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

MOST_RATINGS = 11
"""If there are more distinct ratings, they are counted in classes of equal width."""

_REPORT_EVERY = 1000


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """A data set in numbers.

    described: reviewed items with a title or description. first, last: time stamps.
    ratings: interactions by rating. per_user, per_item: users and items by their number of
    interactions.
    """

    interactions: int
    users: int
    items: int
    described: int
    words: int
    first: int
    last: int
    split_users: int
    split_ties: int
    ratings: Mapping[float, int]
    per_user: Mapping[int, int]
    per_item: Mapping[int, int]

    @property
    def sparsity(self) -> float:
        """The share of (user, item) pairs without an interaction."""
        return 1 - self.interactions / (self.users * self.items)

    @property
    def mean_rating(self) -> float:
        """The mean over interactions."""
        return sum(rating * n for rating, n in self.ratings.items()) / self.interactions

    def rows(self) -> dict[str, str]:
        """The table: a name and a value for each line."""
        return {
            "interactions": f"{self.interactions:,}",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}",
            "items with metadata": f"{self.described:,} ({self.described / self.items:.1%})",
            "sparsity": f"{self.sparsity:.4%}",
            "interactions of a user": _spread(self.per_user),
            "interactions of an item": _spread(self.per_item),
            "words of a review": f"mean {self.words / self.interactions:.1f}",
            "time": f"{_day(self.first)} to {_day(self.last)}",
            "rating": f"mean {self.mean_rating:.2f}",
            "users in the split": f"{self.split_users:,}, {self.split_ties:,} of them with a tie",
        }

    def histogram(self) -> dict[str, int]:
        """Interactions by rating, or by class of ratings if there are many."""
        if len(self.ratings) <= MOST_RATINGS:
            return {f"{rating:g}": self.ratings[rating] for rating in sorted(self.ratings)}
        values = np.fromiter(self.ratings, dtype=float)
        weights = np.fromiter(self.ratings.values(), dtype=np.int64)
        counts, edges = np.histogram(values, bins=MOST_RATINGS - 1, weights=weights)
        names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return dict(zip(names, map(int, counts), strict=True))


def dataset_record(stats: DatasetStats) -> dict[str, Any]:
    """The statistics as JSON."""
    counted = {name: getattr(stats, name) for name in ("ratings", "per_user", "per_item")}
    return {
        **{name: value for name, value in asdict(stats).items() if name not in counted},
        "sparsity": stats.sparsity,
        "mean_rating": stats.mean_rating,
        **{name: {f"{key:g}": own[key] for key in sorted(own)} for name, own in counted.items()},
    }


def dataset_stats(
    folder: ArtifactFolder,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> DatasetStats:
    """Count a folder's reviews.jsonl, items.jsonl and splits.jsonl; the last two may be missing.

    Raises InputError where there are no reviews. Reviews that are read are the steps of `progress`.
    """
    path = folder.file(REVIEWS)
    progress.start("reading reviews")
    users: Counter[str] = Counter()
    items: Counter[str] = Counter()
    ratings: Counter[float] = Counter()
    words = 0
    first = last = None
    for number, _, review in read_lines(path, Review, refusals):
        users[review.user_id] += 1
        items[review.item_id] += 1
        ratings[review.rating] += 1
        words += len(review.text.split())
        first = review.timestamp if first is None else min(first, review.timestamp)
        last = review.timestamp if last is None else max(last, review.timestamp)
        if number % _REPORT_EVERY == 0:
            progress.advance(_REPORT_EVERY)
    if first is None or last is None:
        why = f" ({refusals.sentences[0]})" if refusals.sentences else ""
        raise InputError(f"{path} holds no review{why}; prepare a data set first")
    described = 0
    if folder.has(ITEMS):
        described = sum(
            item.item_id in items and bool(item.title or item.description)
            for _, _, item in read_lines(folder.at(ITEMS), Item, refusals)
        )
    ties: list[bool] = []
    if folder.has(SPLITS):
        ties = [split.tie for _, split in read_splits(folder.at(SPLITS), refusals)]
    return DatasetStats(
        interactions=users.total(),
        users=len(users),
        items=len(items),
        described=described,
        words=words,
        first=first,
        last=last,
        split_users=len(ties),
        split_ties=sum(ties),
        ratings=ratings,
        per_user=Counter(users.values()),
        per_item=Counter(items.values()),
    )


def _spread(counts: Mapping[int, int]) -> str:
    """Mean, median, minimum and maximum of values; counts: how often each value occurs."""
    values = sorted(counts)
    total = sum(counts.values())
    mean = sum(value * n for value, n in counts.items()) / total
    below = 0
    median = values[-1]
    for value in values:
        below += counts[value]
        if 2 * below >= total:
            median = value
            break
    return f"mean {mean:.1f}, median {median:,}, {values[0]:,} to {values[-1]:,}"


def _day(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d}"
