"""Find records of a file by id without holding them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Generic, Self

from indexer.artifacts.lines import Model, Refusals, parse_line, read_lines


class Lookup(Generic[Model]):
    """Records of a file by item id, read again from their place when asked for.

    A file that is not there holds nothing: summaries and metadata are optional.
    """

    def __init__(self, path: Path, model: type[Model], refusals: Refusals) -> None:
        self._model = model
        self._path = path
        self._places: dict[str, int] = {}
        self._file: BinaryIO | None = None
        if path.is_file():
            for number, offset, record in read_lines(path, model, refusals):
                item_id: str = getattr(record, "item_id")  # noqa: B009 - every such model has one
                if self._places.setdefault(item_id, offset) != offset:
                    refusals.add(
                        f"{path}:{number}: item {item_id!r} is already in this file; keep one",
                        "repeated item",
                    )

    def get(self, item_id: str) -> Model | None:
        """The record of an item, None where the file has none."""
        offset = self._places.get(item_id)
        if offset is None or self._file is None:
            return None
        self._file.seek(offset)
        return parse_line(self._file.readline(), self._model, str(self._path))

    def __enter__(self) -> Self:
        if self._places:
            self._file = self._path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
