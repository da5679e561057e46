"""Look up users' interactions in an artifact folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import RecordFile
from indexer.artifacts.names import ASPECTS, REVIEWS
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import (
    Aspects,
    Interaction,
    Review,
)


class Histories:
    """Each user's interactions without those that splits.jsonl holds out; a context manager.

    An interaction is a line of reviews.jsonl or aspects.jsonl; its texts come from aspects.jsonl
    and summaries.jsonl. Memory holds ids and byte offsets, no texts.

    Raises: InputError if neither reviews.jsonl nor aspects.jsonl exists.
    """

    def __init__(self, folder: ArtifactFolder, refusals: Refusals) -> None:
        if not folder.has(REVIEWS) and not folder.has(ASPECTS):
            folder.file(REVIEWS)  # raises
        held_out = folder.held_out()
        self._summaries = folder.summaries(refusals)
        self._items = folder.items(refusals)
        self._aspects = RecordFile(folder.at(ASPECTS), Aspects)
        self._users: dict[str, dict[str, tuple[int, float, int | None]]] = {}
        sources: list[tuple[str, type[Review] | type[Aspects]]] = [
            (REVIEWS, Review),
            (ASPECTS, Aspects),
        ]
        for name, model in sources:
            if not folder.has(name):
                continue
            for _, offset, record in read_lines(folder.at(name), model, refusals):
                if (record.user_id, record.item_id) in held_out:
                    continue
                items = self._users.setdefault(record.user_id, {})
                known = items.get(record.item_id)
                if known is None or record.timestamp >= known[0]:  # the newest one counts
                    at = offset if name == ASPECTS else None
                    items[record.item_id] = (record.timestamp, record.rating, at)

    def users(self) -> Iterator[str]:
        """All users with an interaction, in the order of the files."""
        return iter(self._users)

    def get(self, user_id: str) -> list[Interaction]:
        """A user's interactions; empty for an unknown user."""
        return [
            self._interaction(item_id, *entry)
            for item_id, entry in self._users.get(user_id, {}).items()
        ]

    def _interaction(
        self, item_id: str, timestamp: int, rating: float, offset: int | None
    ) -> Interaction:
        summary, item = self._summaries.get(item_id), self._items.get(item_id)
        aspects: Mapping[str, str | None] = {}
        if offset is not None:
            aspects = self._aspects.at(offset).aspects
        return Interaction(
            item_id=item_id,
            timestamp=timestamp,
            summary=summary.summary if summary else "",
            title=plain_text(item.title) if item else "",
            aspects=aspects,
            rating=rating,
        )

    def __enter__(self) -> Self:
        self._summaries.__enter__()
        self._items.__enter__()
        self._aspects.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._summaries.__exit__()
        self._items.__exit__()
        self._aspects.__exit__()
