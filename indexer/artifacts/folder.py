"""The artifact folder: find its files and open them for look-ups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from indexer.artifacts.formats import check_format
from indexer.artifacts.index_rows import IndexRows
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ITEMS, PERSONAS, SPLITS, SUMMARIES
from indexer.artifacts.opening import BOM, as_stored, opened_lines
from indexer.artifacts.splits import read_splits
from indexer.review.screening import Policy, Screening
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import (
    Item,
    Summary,
)

SAMPLE = 1 << 20
"""Bytes of a file from which the number of its lines is estimated."""


class ArtifactFolder:
    """The artifacts of one catalogue.

    Raises InputError if the folder does not exist, or has a format of a newer release.

    elsewhere: by name, the files that stand elsewhere and count in place of those in the folder.
        With it, also an empty one, the folder need not exist.
    """

    def __init__(self, path: Path, elsewhere: Mapping[str, Path] | None = None) -> None:
        self.path = path
        self._elsewhere = elsewhere or {}
        if elsewhere is not None and not path.exists():
            return
        if not os.path.isdir(path):  # noqa: PTH112 - never raises
            raise InputError(f"there is no artifact folder {path}; name one that holds {PERSONAS}")
        check_format(path)

    def at(self, name: str) -> Path:
        """Where an artifact is or would be: `name`, or `name`.gz if only that is there."""
        return self._elsewhere.get(name) or as_stored(self.path / name)

    def file(self, name: str) -> Path:
        """The path of an artifact. Raises InputError if it does not exist."""
        path = self.at(name)
        if not path.is_file():
            raise InputError(f"the artifact folder {self.path} holds no {name}")
        return path

    def personas(self) -> Path:
        """The path of personas.jsonl. Raises InputError if it is missing, or holds nothing."""
        path = self.file(PERSONAS)
        with opened_lines(path) as file:
            if not any(line.removeprefix(BOM).strip() for line in file):
                raise InputError(
                    f"{path} is empty: no item has personas; make some with p4r reason, or restore "
                    "the file"
                )
        return path

    def has(self, name: str) -> bool:
        """Whether an artifact exists."""
        return self.at(name).is_file()

    def estimated_lines(self, name: str) -> int:
        """About how many lines an artifact has, for a progress bar; exact for a small file."""
        path = self.file(name)
        with path.open("rb") as stored, opened_lines(path, stored) as file:
            lines = file.read(SAMPLE).count(b"\n")
            is_whole = not file.read(1)
            read = stored.tell()
        return lines if is_whole else round(lines * path.stat().st_size / read)

    def index_rows(
        self, domain: str, refusals: Refusals, policy: Policy | None = None
    ) -> IndexRows:
        """The items to index, to be iterated over once; decisions and `policy` say which personas.

        Raises InputError without personas.
        """
        return IndexRows(
            self.personas(),
            self.summaries(refusals),
            self.items(refusals),
            domain,
            refusals,
            Screening(self.path, policy),
        )

    def held_out(self) -> set[tuple[str, str]]:
        """The (user, item) pairs that splits.jsonl holds out; none without that file.

        Raises: InputError if a line is broken, because that user's test item would leak.
        """
        if not self.has(SPLITS):
            return set()
        broken = Refusals(keep=1)
        held_out = {
            (split.user_id, item_id)
            for _, split in read_splits(self.at(SPLITS), broken)
            for item_id in (split.test_item, split.valid_item)
            if item_id is not None
        }
        if broken.total:
            raise InputError(f"{broken.sentences[0]}; repair it: it says what is held out")
        return held_out

    def summaries(self, refusals: Refusals) -> Lookup[Summary]:
        """Summaries by item id."""
        return Lookup(self.at(SUMMARIES), Summary, refusals)

    def items(self, refusals: Refusals) -> Lookup[Item]:
        """Metadata by item id."""
        return Lookup(self.at(ITEMS), Item, refusals)
