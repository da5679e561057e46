"""What is held out: the item each user's list is judged by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from indexer.artifacts.lines import Refusals
from indexer.artifacts.splits import read_splits
from p4r_qdrant.errors import InputError

On = Literal["test", "valid"]
"""Which held-out interaction: the last of each user, or the last but one."""


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
    for number, line in read_splits(path, refusals):
        if line.test_item == line.valid_item:
            refusals.add(
                f"{path}:{number}: the split overlaps itself: {line.test_item!r} is the test item "
                f"and the validation item of user {line.user_id!r}"
            )
            continue
        first = seen.setdefault(line.user_id, number)
        if first != number:
            refusals.add(
                f"{path}:{number}: user {line.user_id!r} is already on line {first}; keep one",
                "repeated user",
            )
            continue
        held = {"test": line.test_item, "valid": line.valid_item}
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
