"""Read splits.jsonl: which interactions of each user are held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import model_validator

from indexer.artifacts.lines import Refusals, read_lines
from p4r_qdrant.records import Id, Split


class SplitLine(Split):
    """A line of splits.jsonl, or of the paper's gt.jsonl (user_id and item_id, the test item)."""

    valid_item: Id | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if (value.get("item_id") is None) == (value.get("test_item") is None):
            raise ValueError("a line has either test_item (splits) or item_id (gt.jsonl)")
        return value if value.get("item_id") is None else value | {"test_item": value["item_id"]}


def read_splits(path: Path, refusals: Refusals) -> Iterator[tuple[int, Split]]:
    """Stream (line number, split) of a splits file; broken lines go to `refusals`.

    Raises: InputError if the file cannot be opened.
    """
    for number, _, split in read_lines(path, SplitLine, refusals):
        yield number, split
