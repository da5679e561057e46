"""What peers know: histories, items and training reviews, without anything held out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from typing import Self

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import ItemRecords
from indexer.artifacts.names import REVIEWS
from indexer.peers.protocol import PeerCandidate, PeerQuery
from indexer.reasoning.sanitizing import metadata
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import CandidateList, Interaction, Review

HELD_ITEMS = 256
"""Items whose reviews are held in memory."""


class Material(ExitStack):
    """The texts of an artifact folder for peers; a context manager.

    Interactions that splits.jsonl holds out are in none of its answers; nor is anything of the
    users `without`, unless their histories are asked for by name.
    """

    def __init__(
        self, folder: ArtifactFolder, refusals: Refusals, without: Container[str] = ()
    ) -> None:
        super().__init__()
        self.folder = folder
        self._without = without
        self.histories = Histories(folder, refusals)
        self._items = folder.items(refusals)
        self._summaries = folder.summaries(refusals)
        self._reviews: ItemRecords[Review] | None = None
        self._held_reviews = lru_cache(maxsize=HELD_ITEMS)(self._read_reviews)
        if folder.has(REVIEWS):  # broken lines are reported by the histories already
            self._reviews = ItemRecords(folder.at(REVIEWS), Review, folder.held_out())

    def __enter__(self) -> Self:
        for one in (self.histories, self._items, self._summaries):
            self.enter_context(one)
        if self._reviews is not None:
            self.enter_context(self._reviews)
        return self

    def query(self, given: CandidateList, top: int | None = None) -> PeerQuery:
        """The query for one list of candidates; an item that is named twice counts once."""
        distinct = {one.item_id: one.score for one in reversed(given.results)}
        scores = {one.item_id: distinct[one.item_id] for one in given.results}
        known = self.histories.get(given.user_id)
        return PeerQuery(
            given.user_id,
            newest_first(known, len(known)),
            tuple(self.candidate(item_id, score) for item_id, score in scores.items()),
            top,
        )

    def users(self) -> Iterable[str]:
        """The users that have training interactions."""
        return (one for one in self.histories.users() if one not in self._without)

    def items(self) -> Iterable[str]:
        """The ids of all items that have metadata, a summary or a training interaction."""
        return {*self._items.ids(), *self._summaries.ids(), *self._users_of}

    def candidate(self, item_id: str, score: float | None = None) -> PeerCandidate:
        """An item with its title and its summary, else its metadata."""
        item, summary = self._items.get(item_id), self._summaries.get(item_id)
        title = plain_text(item.title) if item else ""
        text = summary.summary if summary else ""
        if not text and item is not None:
            text = metadata(item).text
        return PeerCandidate(item_id, title, text, score)

    def reviews_of_item(self, item_id: str) -> Sequence[Review]:
        """The training reviews of an item, in the order of the file."""
        return self._held_reviews(item_id)

    def _read_reviews(self, item_id: str) -> Sequence[Review]:
        if self._reviews is None:
            return ()
        known = self._reviews.get(item_id)
        return tuple(one for one in known if one.user_id not in self._without)

    def reviews_of_user(
        self, user_id: str, most: int, known: Sequence[Interaction] | None = None
    ) -> list[Review]:
        """The newest training reviews of a user, newest first.

        known: only the reviews of these interactions; None: of all that the user has in training.
        """
        found: list[Review] = []
        if known is None:
            known = self.histories.get(user_id)
        for one in newest_first(known, len(known)):
            found += [r for r in self.reviews_of_item(one.item_id) if r.user_id == user_id][-1:]
            if len(found) == most:
                break
        return found

    @cached_property
    def _users_of(self) -> dict[str, set[str]]:
        """The users of each item, in training."""
        users: dict[str, set[str]] = defaultdict(set)
        for user_id in self.users():
            for one in self.histories.get(user_id):
                users[one.item_id].add(user_id)
        return dict(users)

    def most_similar(self, user_id: str, reviews: Sequence[Review], most: int) -> list[Review]:
        """The reviews by users who share most items with this one; of equals, the longest."""
        shared: Counter[str] = Counter()
        for one in self.histories.get(user_id):
            shared.update(self._users_of.get(one.item_id, ()))
        ordered = sorted(reviews, key=lambda one: (-shared[one.user_id], -len(one.text)))
        return ordered[:most]

    def average_of_user(self, user_id: str, *, without: str) -> float | None:
        """The mean of a user's training ratings of other items than one; None without any."""
        known = (one for one in self.histories.get(user_id) if one.item_id != without)
        return _mean([one.rating for one in known if one.rating is not None])

    def average_of_item(self, item_id: str, *, without: str) -> float | None:
        """The mean of an item's training ratings by others than one user; None without any."""
        known = self.reviews_of_item(item_id)
        return _mean([one.rating for one in known if one.user_id != without])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
