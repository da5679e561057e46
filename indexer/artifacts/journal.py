"""Items and reviews as they arrive: an artifact folder, and what came since it was last written.

    FOLDER/arrivals.jsonl    the journal: every record that is new, appended before it is used

The artifacts are whole files, and far too large to be written for each review. So what arrives is
journalled and kept in memory, and `write` merges it into the files now and then. A kill loses
nothing: the journal is read again, and merging twice is merging once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Model, Refusals, read_lines
from indexer.artifacts.lookup import ReviewLookup
from indexer.artifacts.names import (
    ALIGNMENTS,
    ARRIVALS,
    ASPECTS,
    ITEMS,
    PERSONAS,
    REVIEWS,
    SUMMARIES,
)
from indexer.artifacts.writing import rewrite
from p4r_qdrant.errors import StorageFullError
from p4r_qdrant.records import Alignment, Aspects, Item, ItemPersonas, Review, Summary


class JournalRecord(BaseModel):
    """One line of the journal: an item, or a review."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Item | None = None
    review: Review | None = None

    @property
    def item_id(self) -> str:
        """The item that it is, or is about."""
        one = self.item or self.review
        assert one is not None  # noqa: S101 - there is one of them
        return one.item_id


@dataclass
class Reasoned:
    """What reasoning made of one item: its lines in the artifacts.

    `aspects` by user, None for a review that tells nothing.
    """

    summary: Summary | None = None
    aspects: dict[str, Aspects | None] = field(default_factory=dict)
    personas: ItemPersonas | None = None


class Journal:
    """The records of a folder by item, the newest form of each; a context manager.

    Memory holds ids and places in the files, and the texts of what is not merged yet.
    """

    def __init__(self, folder: ArtifactFolder) -> None:
        self._folder = folder
        self._journal: BinaryIO | None = None
        self._fresh_items: dict[str, Item] = {}
        self._fresh_reviews: dict[str, dict[str, Review]] = {}
        self._reasoned: dict[str, Reasoned] = {}
        self.waiting: set[str] = set()
        """Items that arrivals touched and that are not reasoned yet."""

    @property
    def unwritten(self) -> int:
        """Records in memory that `write` would merge."""
        reviews = sum(len(one) for one in self._fresh_reviews.values())
        return len(self._fresh_items) + reviews + len(self._reasoned)

    def take(self, record: Item | Review) -> bool:
        """Journal a record and make it the newest; False where it is known as it is.

        Raises StorageFullError, and then it was not taken.
        """
        if isinstance(record, Item):
            if self.item(record.item_id) == record:
                return False
            self._append(JournalRecord(item=record))
            self._fresh_items[record.item_id] = record
        else:
            if self.review(record.item_id, record.user_id) == record:
                return False
            self._append(JournalRecord(review=record))
            self._fresh_reviews.setdefault(record.item_id, {})[record.user_id] = record
        self.waiting.add(record.item_id)
        return True

    # -- what is known ------------------------------------------------------------------------

    def item(self, item_id: str) -> Item | None:
        """An item's metadata."""
        return self._fresh_items.get(item_id) or self._items.get(item_id)

    def review(self, item_id: str, user_id: str) -> Review | None:
        """A user's review of an item."""
        fresh = self._fresh_reviews.get(item_id, {}).get(user_id)
        return fresh or self._reviews.get(item_id, user_id)

    def reviewers(self, item_id: str) -> list[str]:
        """Who has reviewed an item, or has aspects of it, in the order of the files."""
        known = (self._reviews.users(item_id), self._fresh_reviews.get(item_id, ()))
        return list(dict.fromkeys([*known[0], *known[1], *self._aspects.users(item_id)]))

    def summary(self, item_id: str) -> Summary | None:
        """The summary in the files, None where the metadata has changed since."""
        return None if item_id in self._fresh_items else self._summaries.get(item_id)

    def aspects(self, item_id: str, user_id: str) -> Aspects | None:
        """The aspects in the files, None where the review has changed since."""
        if user_id in self._fresh_reviews.get(item_id, {}):
            return None
        return self._aspects.get(item_id, user_id)

    # -- what becomes of it -------------------------------------------------------------------

    def settle(self, item_id: str, reasoned: Reasoned, *, waits: bool = False) -> None:
        """Note what was reasoned about an item; the next `write` puts it into the artifacts.

        `waits`: something new has come for it meanwhile.
        """
        self._reasoned[item_id] = reasoned
        if not waits:
            self.waiting.discard(item_id)

    def write(self) -> int:
        """Merge everything into the artifacts; returns how many alignments lost their persona.

        The journal keeps what belongs to items that still wait. Raises StorageFullError; nothing
        is lost then.
        """
        path, fresh = self._folder.path, self._reasoned
        reviews: dict[_Key, Review | None] = {
            (item_id, user_id): review
            for item_id, own in self._fresh_reviews.items()
            for user_id, review in own.items()
        }
        aspects: dict[_Key, Aspects | None] = {
            (item_id, user_id): found
            for item_id, one in fresh.items()
            for user_id, found in one.aspects.items()
        }
        personas = {one: it.personas for one, it in fresh.items() if it.personas}
        _merge(path / REVIEWS, Review, reviews)
        _merge(path / ITEMS, Item, {(one,): item for one, item in self._fresh_items.items()})
        _merge(
            path / SUMMARIES,
            Summary,
            {(one,): it.summary for one, it in fresh.items() if it.summary},
        )
        _merge(path / ASPECTS, Aspects, aspects)
        lost = self._drop_alignments(personas)
        _merge(path / PERSONAS, ItemPersonas, {(one,): it for one, it in personas.items()})
        waiting = self.waiting
        rewrite(path / ARRIVALS, JournalRecord, lambda one: one if one.item_id in waiting else None)
        for fresh_ones in (self._fresh_items, self._fresh_reviews):
            for item_id in fresh_ones.keys() - waiting:
                del fresh_ones[item_id]
        self._reasoned.clear()
        self._close()
        self._open()
        return lost

    def sync(self) -> None:
        """Put the journal on the disk itself."""
        if self._journal is not None:
            os.fsync(self._journal.fileno())

    def _drop_alignments(self, fresh: Mapping[str, ItemPersonas]) -> int:
        """An alignment names a persona by its number: where those have changed, it is void."""
        path = self._folder.path
        if not fresh or not self._folder.has(ALIGNMENTS) or not self._folder.has(PERSONAS):
            return 0
        lines = read_lines(path / PERSONAS, ItemPersonas, Refusals())
        changed = {one.item_id for _, _, one in lines if fresh.get(one.item_id, one) != one}
        dropped = 0

        def kept(record: Alignment) -> Alignment | None:
            nonlocal dropped
            if record.item_id not in changed:
                return record
            dropped += 1
            return None

        if changed:
            rewrite(path / ALIGNMENTS, Alignment, kept)
        return dropped

    # -- the journal --------------------------------------------------------------------------

    def _append(self, arrival: JournalRecord) -> None:
        assert self._journal is not None  # noqa: S101 - between enter and exit there is one
        line = arrival.model_dump_json(exclude_none=True).encode() + b"\n"
        end = self._journal.seek(0, os.SEEK_END)
        try:
            self._journal.write(line)
        except OSError as error:
            self._journal.truncate(end)
            if error.errno == errno.ENOSPC:
                raise StorageFullError(
                    f"no space left to write {self._folder.path / ARRIVALS}; make room and run "
                    "again, all up to here is kept"
                ) from None
            raise

    def _replay(self) -> None:
        """Take up what an earlier run had received and not merged; drop a line that was torn."""
        path = self._folder.path / ARRIVALS
        if not path.is_file():
            return
        rewrite(path, JournalRecord, lambda one: one, broken=Refusals())
        for _, _, arrival in read_lines(path, JournalRecord, Refusals()):
            if arrival.item is not None:
                self._fresh_items[arrival.item_id] = arrival.item
            if arrival.review is not None:
                own = self._fresh_reviews.setdefault(arrival.item_id, {})
                own[arrival.review.user_id] = arrival.review
            self.waiting.add(arrival.item_id)

    def _open(self) -> None:
        path = self._folder.path
        self._items = self._folder.items(Refusals()).__enter__()
        self._summaries = self._folder.summaries(Refusals()).__enter__()
        self._reviews = ReviewLookup(path / REVIEWS, Review).__enter__()
        self._aspects = ReviewLookup(path / ASPECTS, Aspects).__enter__()
        self._journal = (path / ARRIVALS).open("ab", buffering=0)

    def _close(self) -> None:
        self._items.__exit__()
        self._summaries.__exit__()
        self._reviews.__exit__()
        self._aspects.__exit__()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> Self:
        self._replay()
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        journal = self._folder.path / ARRIVALS
        if journal.is_file() and not journal.stat().st_size:
            journal.unlink()


_Key = tuple[str, ...]


def _merge(path: Path, model: type[Model], fresh: Mapping[_Key, Model | None]) -> None:
    """Put records into a file: in the place of those with their ids, else at the end.

    None takes the record out.
    """
    if not fresh:
        return
    left = dict(fresh)

    def newest(record: Model) -> Model | None:
        return left.pop(_key(record), record)

    rewrite(path, model, newest, more=lambda: (one for one in left.values() if one is not None))


def _key(record: BaseModel) -> _Key:
    names = ("item_id", "user_id") if isinstance(record, (Review, Aspects)) else ("item_id",)
    return tuple(getattr(record, name) for name in names)
