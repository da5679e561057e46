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


class ItemRecords(RecordFile[Model]):
    """All records of each item, in the order of the file; a context manager.

    Holds ids and places in the file, never texts. Broken lines go to `refusals`.

    without: (user, item) pairs whose records are left out.
    """

    def __init__(
        self,
        path: Path,
        model: type[Model],
        without: Collection[tuple[str, str]],
        refusals: Refusals | None = None,
    ) -> None:
        super().__init__(path, model)
        self._offsets: dict[str, list[int]] = {}
        for _, offset, record in read_lines(path, model, refusals or Refusals()):
            item_id, user_id = getattr(record, "item_id"), getattr(record, "user_id")  # noqa: B009
            if (user_id, item_id) not in without:
                self._offsets.setdefault(item_id, []).append(offset)

    def get(self, item_id: str) -> list[Model]:
        """The records of one item."""
        return [self.at(offset) for offset in self._offsets.get(item_id, ())]

    def outside(self, item_ids: Collection[str]) -> int:
        """How many records are of other items than these."""
        return sum(len(own) for item, own in self._offsets.items() if item not in item_ids)


class _ByOffset(RecordFile[Model]):
    """Finds the offsets of a file's records when it is made, and again if another process has
    replaced the file by the time it is opened.
    """

    def __init__(self, path: Path, model: type[Model], refusals: Refusals) -> None:
        super().__init__(path, model)
        self._find(refusals)

    def _find(self, refusals: Refusals) -> None:
        self._forget()
        self._found = stamp_of(self.path)
        if self._found is not None:
            for number, offset, record in read_lines(self.path, self._model, refusals):
                if repeated := self._repeated(record, offset):
                    refusals.add(
                        f"{self.path}:{number}: item {repeated!r} is already in this file; "
                        "keep one",
                        "repeated item",
                    )

    def _forget(self) -> None:
        raise NotImplementedError

    def _repeated(self, record: Model, offset: int) -> str:
        """Keep the offset of a record; if it is refused as a repeated one, its item id."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        super().__enter__()
        while stamp_of(self.path) != self._found:
            self.__exit__()
            self._find(Refusals())  # what the first reading has refused is counted already
            super().__enter__()
        return self


class Lookup(_ByOffset[Model]):
    """The records of a file by item id; a context manager.

    Of several records with one id the first counts; the others are refused. A missing file is an
    empty one: summaries and metadata are optional.
    """

    def _forget(self) -> None:
        self._offsets: dict[str, int] = {}

    def _repeated(self, record: Model, offset: int) -> str:
        item_id: str = getattr(record, "item_id")  # noqa: B009 - every such model has one
        return "" if self._offsets.setdefault(item_id, offset) == offset else item_id

    def ids(self) -> Collection[str]:
        """The ids of all items with a record, in the order of the file."""
        return self._offsets.keys()

    def get(self, item_id: str) -> Model | None:
        """The record of an item, or None."""
        offset = self._offsets.get(item_id)
        return None if offset is None else self.at(offset)


class ReviewLookup(_ByOffset[Model]):
    """The records of a file by item id and user id, the first of each pair; a context manager.

    Broken lines are skipped. A missing file is an empty one.
    """

    def __init__(self, path: Path, model: type[Model]) -> None:
        super().__init__(path, model, Refusals())

    def _forget(self) -> None:
        self._offsets: dict[str, dict[str, int]] = {}

    def _repeated(self, record: Model, offset: int) -> str:
        item_id, user_id = getattr(record, "item_id"), getattr(record, "user_id")  # noqa: B009
        self._offsets.setdefault(item_id, {}).setdefault(user_id, offset)
        return ""

    def users(self, item_id: str) -> Collection[str]:
        """The users with a record of an item, in the order of the file."""
        return self._offsets.get(item_id, {}).keys()

    def get(self, item_id: str, user_id: str) -> Model | None:
        """A user's record of an item, or None."""
        offset = self._offsets.get(item_id, {}).get(user_id)
        return None if offset is None else self.at(offset)


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Identifies the file at a path, so that a replacement is noticed; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
