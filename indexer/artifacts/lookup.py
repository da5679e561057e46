"""Read single records of a JSON Lines file, by byte offset or by id, without holding the texts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Generic, Self

from indexer.artifacts.lines import Model, Refusals, parse_line, read_lines
from indexer.artifacts.opening import opened_at_offsets


class RecordFile(Generic[Model]):
    """Reads the record at a byte offset of a JSON Lines file; a context manager."""

    def __init__(self, path: Path, model: type[Model]) -> None:
        self.path = path
        self._model = model
        self._file: BinaryIO | None = None

    def at(self, offset: int) -> Model:
        """The record whose line begins at `offset`.

        Raises: RecordError if the line is broken: the file changed since the offset was taken.
        """
        assert self._file is not None, f"{self.path} is not open"  # noqa: S101
        self._file.seek(offset)
        return parse_line(self._file.readline(), self._model, str(self.path))

    def __enter__(self) -> Self:
        if self.path.is_file():  # no record has an offset in a missing file
            self._file = opened_at_offsets(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class Lookup(RecordFile[Model]):
    """The records of a file by item id; a context manager.

    Of several records with one id the first counts; the others are refused. A missing file is an
    empty one: summaries and metadata are optional.
    """

    def __init__(self, path: Path, model: type[Model], refusals: Refusals) -> None:
        super().__init__(path, model)
        self._offsets: dict[str, int] = {}
        if path.is_file():
            for number, offset, record in read_lines(path, model, refusals):
                item_id: str = getattr(record, "item_id")  # noqa: B009 - every such model has one
                if self._offsets.setdefault(item_id, offset) != offset:
                    refusals.add(
                        f"{path}:{number}: item {item_id!r} is already in this file; keep one",
                        "repeated item",
                    )

    def get(self, item_id: str) -> Model | None:
        """The record of an item, or None."""
        offset = self._offsets.get(item_id)
        return None if offset is None else self.at(offset)


class ReviewLookup(RecordFile[Model]):
    """The records of a file by item id and user id, the first of each pair; a context manager.

    Broken lines are skipped. A missing file is an empty one.
    """

    def __init__(self, path: Path, model: type[Model]) -> None:
        super().__init__(path, model)
        self._offsets: dict[str, dict[str, int]] = {}
        if path.is_file():
            for _, offset, record in read_lines(path, model, Refusals()):
                item_id, user_id = getattr(record, "item_id"), getattr(record, "user_id")  # noqa: B009
                self._offsets.setdefault(item_id, {}).setdefault(user_id, offset)

    def users(self, item_id: str) -> Collection[str]:
        """The users with a record of an item, in the order of the file."""
        return self._offsets.get(item_id, {}).keys()

    def get(self, item_id: str, user_id: str) -> Model | None:
        """A user's record of an item, or None."""
        offset = self._offsets.get(item_id, {}).get(user_id)
        return None if offset is None else self.at(offset)
