"""The artifact folder: which files it has, joined into what an index needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ITEMS, PERSONAS, SPLITS, SUMMARIES
from indexer.artifacts.splits import read_splits
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.payload import payload_fields
from p4r_qdrant.records import (
    Item,
    ItemPersonas,
    Summary,
)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One item as the index wants it, vectors aside."""

    where: str
    item: ItemPersonas
    summary: str
    fields: dict[str, Any]


class ArtifactFolder:
    """One catalogue's artifacts. Raises InputError where the folder is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isdir(path):  # noqa: PTH112 - never raises
            raise InputError(f"there is no artifact folder {path}; name one that holds {PERSONAS}")

    def file(self, name: str) -> Path:
        """The path of an artifact; raises InputError where it is not there."""
        path = self.path / name
        if not path.is_file():
            raise InputError(f"the artifact folder {self.path} holds no {name}")
        return path

    def has(self, name: str) -> bool:
        """Whether the artifact is there."""
        return (self.path / name).is_file()

    def count_lines(self, name: str) -> int:
        """Lines of an artifact, for a progress bar."""
        with self.file(name).open("rb") as file:
            return sum(1 for _ in file)

    def index_rows(self, domain: str, refusals: Refusals) -> Iterator[IndexRow]:
        """Stream the items to index: their personas joined with summary and metadata.

        Refused, counted and left out: broken lines, and a repeated item id (the first stays).
        """
        personas = self.file(PERSONAS)
        with (
            self.summaries(refusals) as summaries,
            self.items(refusals) as items,
        ):
            seen: dict[str, int] = {}
            for number, _, record in read_lines(personas, ItemPersonas, refusals):
                where = f"{personas}:{number}"
                first = seen.setdefault(record.item_id, number)
                if first != number:
                    refusals.add(
                        f"{where}: item {record.item_id!r} is already on line {first}; keep one",
                        "repeated item",
                    )
                    continue
                summary = summaries.get(record.item_id)
                item = items.get(record.item_id)
                text = summary.summary if summary else ""
                yield IndexRow(where, record, text, payload_fields(item, text, domain))

    def held_out(self) -> set[tuple[str, str]]:
        """The (user, item) pairs that splits.jsonl holds out; none without that file.

        Raises: InputError if a line is broken, because that user's test item would leak.
        """
        if not self.has(SPLITS):
            return set()
        broken = Refusals(keep=1)
        held_out = {
            (split.user_id, item_id)
            for _, split in read_splits(self.path / SPLITS, broken)
            for item_id in (split.test_item, split.valid_item)
            if item_id is not None
        }
        if broken.total:
            raise InputError(f"{broken.sentences[0]}; mend it: it says what is held out")
        return held_out

    def summaries(self, refusals: Refusals) -> Lookup[Summary]:
        """Summaries by item id."""
        return Lookup(self.path / SUMMARIES, Summary, refusals)

    def items(self, refusals: Refusals) -> Lookup[Item]:
        """Metadata by item id."""
        return Lookup(self.path / ITEMS, Item, refusals)
