"""The journal of an artifact folder: records that arrive, kept until they are in the artifacts.

    FOLDER/arrivals.jsonl    every new record, appended before it is used

The artifacts are whole files, too large to be rewritten for each review. So a new record is
appended to the journal and held in memory; `write` merges all of them into the artifacts now and
then. After a kill the journal is read again, and merging a record twice has no further effect.

An item is indexed before its personas are merged, and is in the journal until they are. So who
reads the index, then the journal, then personas.jsonl, in this order, finds every item of the
folder that the index holds (see `ids_of`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
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
from indexer.artifacts.writing import rewrite, storage_errors
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.records import Alignment, Aspects, Id, Item, ItemPersonas, Review, Summary
from p4r_qdrant.whole_files import opened_privately


class JournalRecord(BaseModel):
    """One line of the journal: an item, a review, or the id of an item to reason on again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Item | None = None
    review: Review | None = None
    again: Id | None = None

    @property
    def item_id(self) -> str:
        """The item, or the item of the review."""
        record = self.item or self.review
        item_id = record.item_id if record is not None else self.again
        assert item_id is not None  # noqa: S101 - one of them is set
        return item_id


@dataclass
class Reasoned:
    """What the LLM steps made of one item: its lines in the artifacts.

    aspects: by user; None for a review from which no aspect tuple was extracted.
    """

    summary: Summary | None = None
    aspects: dict[str, Aspects | None] = field(default_factory=dict)
    personas: ItemPersonas | None = None


class Journal:
    """The newest records of a folder by item, its journal included; a context manager.

    Memory holds ids and byte offsets, and the texts of records that are not merged yet.
    """

    def __init__(self, folder: ArtifactFolder) -> None:
        self._folder = folder
        self._path = folder.path / ARRIVALS
        self._file: BinaryIO | None = None
        self._new_items: dict[str, Item] = {}
        self._new_reviews: dict[str, dict[str, Review]] = {}
        self._reasoned: dict[str, Reasoned] = {}
        self.waiting: set[str] = set()
        """Items with new records, on which the LLM steps have not run yet."""

    @property
    def unwritten(self) -> int:
        """Records in memory that `write` would merge."""
        reviews = sum(len(by_user) for by_user in self._new_reviews.values())
        return len(self._new_items) + reviews + len(self._reasoned)

    def take(self, record: Item | Review) -> bool:
        """Append a record to the journal; False if the same record is known already.

        Raises: StorageFullError or InputError if the record could not be appended.
        """
        if isinstance(record, Item):
            if self.item(record.item_id) == record:
                return False
            self._append(JournalRecord(item=record))
            self._new_items[record.item_id] = record
        else:
            if self.review(record.item_id, record.user_id) == record:
                return False
            self._append(JournalRecord(review=record))
            self._new_reviews.setdefault(record.item_id, {})[record.user_id] = record
        self.waiting.add(record.item_id)
        return True

    def ask_again(self, item_id: str) -> None:
        """Journal that an item waits, although no new record of it has arrived.

        Raises: StorageFullError or InputError if that could not be appended.
        """
        if item_id not in self.waiting:
            self._append(JournalRecord(again=item_id))
            self.waiting.add(item_id)

    # -- look-ups -----------------------------------------------------------------------------

    def item(self, item_id: str) -> Item | None:
        """An item's metadata."""
        return self._new_items.get(item_id) or self._items.get(item_id)

    def review(self, item_id: str, user_id: str) -> Review | None:
        """A user's review of an item."""
        new = self._new_reviews.get(item_id, {}).get(user_id)
        return new or self._reviews.get(item_id, user_id)

    def reviewers(self, item_id: str) -> list[str]:
        """The users with a review or aspects of an item, in the order of the files."""
        return list(
            dict.fromkeys(
                [
                    *self._reviews.users(item_id),
                    *self._new_reviews.get(item_id, ()),
                    *self._aspects.users(item_id),
                ]
            )
        )

    def summary(self, item_id: str) -> Summary | None:
        """The summary in the artifacts, None if the metadata has changed since."""
        return None if item_id in self._new_items else self._summaries.get(item_id)

    def aspects(self, item_id: str, user_id: str) -> Aspects | None:
        """The aspects in the artifacts, None if the review has changed since."""
        if user_id in self._new_reviews.get(item_id, {}):
            return None
        return self._aspects.get(item_id, user_id)

    # -- merging ------------------------------------------------------------------------------

    def settle(self, item_id: str, reasoned: Reasoned, *, waits: bool = False) -> None:
        """Note what was reasoned about an item; the next `write` puts it into the artifacts.

        waits: newer records of the item have arrived meanwhile, so it stays in `waiting`.
        """
        self._reasoned[item_id] = reasoned
        if not waits:
            self.waiting.discard(item_id)

    def write(self) -> int:
        """Merge everything into the artifacts; returns how many alignments were dropped.

        The journal keeps the records of items that still wait.
        Raises: StorageFullError or InputError; nothing is lost then.
        """
        folder, reasoned = self._folder, self._reasoned
        personas = {one: it.personas for one, it in reasoned.items() if it.personas}
        new_reviews: dict[_Key, Review | None] = {
            (item_id, user_id): review
            for item_id, by_user in self._new_reviews.items()
            for user_id, review in by_user.items()
        }
        new_aspects: dict[_Key, Aspects | None] = {
            (item_id, user_id): aspects
            for item_id, made in reasoned.items()
            for user_id, aspects in made.aspects.items()
        }
        _merge(folder.at(REVIEWS), Review, new_reviews)
        _merge(folder.at(ITEMS), Item, {(one,): item for one, item in self._new_items.items()})
        _merge(
            folder.at(SUMMARIES),
            Summary,
            {(one,): it.summary for one, it in reasoned.items() if it.summary},
        )
        _merge(folder.at(ASPECTS), Aspects, new_aspects)
        dropped = self._drop_alignments(personas)
        _merge(folder.at(PERSONAS), ItemPersonas, {(one,): it for one, it in personas.items()})
        self._forget_merged()
        return dropped

    def sync(self) -> None:
        """Sync the journal to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _forget_merged(self) -> None:
        """Shorten the journal to the items that wait, and open the new files."""
        waiting = self.waiting
        rewrite(self._path, JournalRecord, lambda one: one if one.item_id in waiting else None)
        for records in (self._new_items, self._new_reviews):
            for item_id in records.keys() - waiting:
                del records[item_id]
        self._reasoned.clear()
        self._close()
        self._open()

    def _drop_alignments(self, personas: Mapping[str, ItemPersonas]) -> int:
        """Drop the alignments of items whose personas change: they name personas by number."""
        if not personas or not self._folder.has(ALIGNMENTS) or not self._folder.has(PERSONAS):
            return 0
        lines = read_lines(self._folder.at(PERSONAS), ItemPersonas, Refusals())
        changed = {one.item_id for _, _, one in lines if personas.get(one.item_id, one) != one}
        dropped = 0

        def kept(record: Alignment) -> Alignment | None:
            nonlocal dropped
            if record.item_id not in changed:
                return record
            dropped += 1
            return None

        if changed:
            rewrite(self._folder.at(ALIGNMENTS), Alignment, kept)
        return dropped

    # -- the file -----------------------------------------------------------------------------

    def _append(self, record: JournalRecord) -> None:
        assert self._file is not None  # noqa: S101 - it is open in the context
        end = self._file.seek(0, os.SEEK_END)
        try:
            with storage_errors(self._path):
                self._file.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
        except P4RError:
            self._file.truncate(end)
            raise

    def _replay(self) -> None:
        """Read what an earlier run has not merged; remove a line that a kill cut off."""
        if not self._path.is_file():
            return
        rewrite(self._path, JournalRecord, lambda one: one, broken=Refusals())
        for _, _, record in read_lines(self._path, JournalRecord, Refusals()):
            if record.item is not None:
                self._new_items[record.item_id] = record.item
            if record.review is not None:
                by_user = self._new_reviews.setdefault(record.item_id, {})
                by_user[record.review.user_id] = record.review
            self.waiting.add(record.item_id)

    def _open(self) -> None:
        folder = self._folder
        with ExitStack() as files:
            self._items = files.enter_context(self._folder.items(Refusals()))
            self._summaries = files.enter_context(self._folder.summaries(Refusals()))
            self._reviews = files.enter_context(ReviewLookup(folder.at(REVIEWS), Review))
            self._aspects = files.enter_context(ReviewLookup(folder.at(ASPECTS), Aspects))
            self._file = files.enter_context(opened_privately(self._path, "ab", buffering=0))
            self._files = files.pop_all()

    def _close(self) -> None:
        self._files.close()

    def __enter__(self) -> Self:
        self._replay()
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._path.is_file() and not self._path.stat().st_size:
            self._path.unlink()


def arriving(folder: ArtifactFolder) -> set[str]:
    """The items on their way into personas.jsonl: the index may hold their new personas already."""
    return {one.item_id for one in _records(folder, ARRIVALS, JournalRecord)}


def ids_of(folder: ArtifactFolder) -> set[str]:
    """The items of a folder: those on their way into personas.jsonl, then those in it.

    Read in this order, because another process may be merging the former into the latter.
    """
    return arriving(folder) | {one.item_id for one in _records(folder, PERSONAS, ItemPersonas)}


def _records(folder: ArtifactFolder, name: str, model: type[Model]) -> Iterator[Model]:
    path = folder.at(name)
    try:
        for _, _, record in read_lines(path, model, Refusals()):
            yield record
    except InputError:
        if path.exists():
            raise  # else it was never there, or all of it is merged just now


_Key = tuple[str, ...]


def _merge(path: Path, model: type[Model], new: Mapping[_Key, Model | None]) -> None:
    """Replace the records of a file that have the same ids; append the others.

    None removes the record.
    """
    if not new:
        return
    left = dict(new)

    def newest(record: Model) -> Model | None:
        return left.pop(_key(record), record)

    rewrite(path, model, newest, more=lambda: (one for one in left.values() if one is not None))


def _key(record: BaseModel) -> _Key:
    names = ("item_id", "user_id") if isinstance(record, (Review, Aspects)) else ("item_id",)
    return tuple(getattr(record, name) for name in names)
