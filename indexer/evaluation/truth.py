"""What is held out: the item each user's list is judged by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from indexer.artifacts.lines import Refusals, read_lines
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id

On = Literal["test", "valid"]
"""Which held-out interaction: the last of each user, or the last but one."""


class _Line(BaseModel):
    """A line of splits.jsonl, or of the paper's gt.jsonl (`item_id`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: Id
    item_id: Id | None = None
    test_item: Id | None = None
    valid_item: Id | None = None
    tie: bool = False

    @model_validator(mode="after")
    def _one_form(self) -> _Line:
        if (self.item_id is None) == (self.test_item is None):
            raise ValueError("a line of the truth has either test_item (splits) or item_id")
        if self.test_item is not None and self.test_item == self.valid_item:
            raise ValueError(
                f"the split overlaps itself: {self.test_item!r} is the test item and the "
                f"validation item of user {self.user_id!r}"
            )
        return self


@dataclass(frozen=True)
class Truth:
    """The held-out item of each user.

    held_out: all (user, item) pairs that the file holds out, the other ones too. notes: what is
    worth knowing, counted.
    """

    on: On
    items: dict[str, str]
    held_out: frozenset[tuple[str, str]]
    notes: Counter[str] = field(default_factory=Counter)


def read_truth(path: Path, refusals: Refusals, on: On = "test") -> Truth:
    """Read splits.jsonl, or lines of user_id and item_id as in the paper's gt.jsonl.

    Refused and counted: broken lines, a user's second line, a split that overlaps itself. Raises
    InputError where no user is left.
    """
    seen: dict[str, int] = {}
    items: dict[str, str] = {}
    held_out: set[tuple[str, str]] = set()
    notes: Counter[str] = Counter()
    for number, _, line in read_lines(path, _Line, refusals):
        first = seen.setdefault(line.user_id, number)
        if first != number:
            refusals.add(
                f"{path}:{number}: user {line.user_id!r} is already on line {first}; keep one",
                "repeated user",
            )
            continue
        test_item = line.test_item or line.item_id
        held = {"test": test_item, "valid": line.valid_item}
        held_out |= {(line.user_id, item) for item in held.values() if item is not None}
        item_id = held[on]
        if item_id is None:
            notes[f"users without a {on} item, left out"] += 1
            continue
        items[line.user_id] = item_id
        if line.tie:
            notes["users whose test and validation item have one time stamp"] += 1
    if not items:
        raise InputError(
            f"{path} holds no {on} item; give a splits.jsonl"
            + (", or lines of user_id and item_id" if on == "test" else " with valid_item")
        )
    return Truth(on, items, frozenset(held_out), notes)
