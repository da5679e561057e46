"""The files that `p4r reason` is given: read as a whole before an LLM is asked anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.splits import SplitLine
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

_RECORDS: dict[str, tuple[type[BaseModel], str]] = {
    ITEMS: (Item, "an item"),
    REVIEWS: (Review, "a review"),
    SPLITS: (SplitLine, "a split"),
}


def check_inputs(files: Mapping[str, Path], refusals: Refusals) -> None:
    """Read each file to its end; broken lines go to `refusals`.

    files: by the name of the artifact, `items.jsonl`, `reviews.jsonl` or `splits.jsonl`.
    Raises: InputError if a file is missing, is no JSON Lines, or holds no such record at all.
    """
    for name, path in files.items():
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the file")
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        model, what = _RECORDS[name]
        before, found = refusals.total, 0
        for number, _, record in read_lines(path, model, refusals):
            found += 1
            if found == 1 and isinstance(record, Item):
                _check_no_review(record, f"{path}:{number}")
        refused = refusals.total - before
        if refused and not found:
            first = refusals.sentences[min(before, len(refusals.sentences) - 1)]
            raise InputError(
                f"{first}; none of {refused:,} lines is {what}: give the file of "
                f"--{name.partition('.')[0]}"
            )
        if not found and name != SPLITS:
            raise InputError(f"{path} is empty: it must hold {what} on each line")


def _check_no_review(item: Item, where: str) -> None:
    """Raise InputError for a review, which is also an item with fields of its own."""
    if {"user_id", "rating"} <= (item.model_extra or {}).keys():
        raise InputError(
            f"{where} is a review, not an item (it has a user_id and a rating): give the items as "
            "--items, and the reviews as --reviews"
        )
