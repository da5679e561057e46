"""Candidate lists of any origin, read for one thing: where the held-out item stands.

Lists are best first; the place in the list counts, scores only tell of broken ones. Every entry
keeps its rank: an item that is not known, `[PAD]`, null, and an item named a second time take up
a place as they would on a screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from indexer.artifacts.lines import Refusals, read_lines
from indexer.evaluation.truth import Truth
from indexer.metrics import Ranks
from indexer.progress import SILENT, Progress, track
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Score

PADDING = "[PAD]"
"""What the paper's lists hold in place of an item it does not know."""

_NO_ITEM: frozenset[str | None] = frozenset({None, "", PADDING})

NO_LIST = "users without a list, counted as misses"


class _Entry(TypedDict, total=False):
    # Few validators in Python here: a file may hold ten million entries.
    __pydantic_config__ = ConfigDict(coerce_numbers_to_str=True)  # type: ignore[misc]

    item_id: str | None
    score: Score | None


class _List(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user_id: Id
    results: list[_Entry]


@dataclass(frozen=True)
class JudgedLists:
    """The lists of one file, judged: ranks in the order of the truth's users.

    shortest, longest: lengths of the lists that were judged. notes: what is odd in them, counted.
    """

    ranks: Ranks
    shortest: int
    longest: int
    notes: Counter[str] = field(default_factory=Counter)


def judge_lists(
    path: Path,
    truth: Truth,
    refusals: Refusals,
    *,
    known_items: Set[str] | None = None,
    progress: Progress = SILENT,
) -> JudgedLists:
    """Find each held-out item in its user's list, as a stream: memory holds ids and ranks.

    Refused and counted: broken lines, and a user's second list. With `known_items`, entries that
    are none of them are counted. Each list is one step of `progress`. Raises InputError where no
    user of the truth has a list.
    """
    places = {user_id: place for place, user_id in enumerate(truth.items)}
    ranks = np.zeros(len(places), dtype=np.int64)
    lengths: list[int] = []
    notes: Counter[str] = Counter()
    seen: dict[str, int] = {}
    broken = Refusals(keep=1, parent=refusals)
    lines = read_lines(path, _List, broken)
    for number, _, line in track(progress, lines, f"reading {path.name}"):
        first = seen.setdefault(line.user_id, number)
        if first != number:
            refusals.add(
                f"{path}:{number}: user {line.user_id!r} is already on line {first}; keep one",
                "repeated user",
            )
            continue
        place = places.get(line.user_id)
        if place is None:
            notes["lists of users without truth, ignored"] += 1
            continue
        items = [entry.get("item_id") for entry in line.results]
        lengths.append(len(items))
        _note_items(items, known_items, notes)
        _note_scores([entry.get("score") for entry in line.results], notes)
        wanted = truth.items[line.user_id]
        if wanted in items:
            ranks[place] = items.index(wanted) + 1
    if not lengths:
        why = f"the first refusal: {broken.sentences[0]}" if broken.total else "do the ids match?"
        raise InputError(f"{path} holds no list of a user whose truth is known; {why}")
    notes[NO_LIST] = len(places) - len(lengths)
    return JudgedLists(ranks, min(lengths), max(lengths), +notes)


def _note_items(items: list[str | None], known_items: Set[str] | None, notes: Counter[str]) -> None:
    distinct = {*items}
    named = distinct - _NO_ITEM
    padding = sum(item in _NO_ITEM for item in items) if len(named) < len(items) else 0
    notes["entries that are no item; they keep their rank"] += padding
    notes["items repeated in a list; the first counts"] += len(items) - padding - len(named)
    notes["empty lists"] += not items
    if known_items is not None:
        unknown = len(named - known_items)
        notes["entries that the reviews do not know; they keep their rank"] += unknown


def _note_scores(scores: list[float | None], notes: Counter[str]) -> None:
    values = np.array(scores, dtype=np.float64)  # None becomes NaN
    finite = values[np.isfinite(values)]
    notes["entries without a finite score"] += len(values) - len(finite)
    unsorted = bool(np.any(finite[1:] > finite[:-1]))
    notes["lists that are not sorted by score; their order counts"] += unsorted
