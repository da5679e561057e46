"""Copies of the reviews with a marker in place of each held-out one, to find leaks by."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.writing import written_whole

MARKER = "p4rmarker"


class _Any(BaseModel):
    model_config = ConfigDict(extra="allow")


def marker(user_id: str, item_id: str) -> str:
    """The word that replaces one held-out interaction; it is in no language."""
    return MARKER + hashlib.sha256(f"{user_id}\x00{item_id}".encode()).hexdigest()[:16]


def poison(
    reviews: Path, held_out: frozenset[tuple[str, str]], output: Path, refusals: Refusals
) -> Counter[str]:
    """Copy reviews.jsonl with a marker in the title and text of each held-out review.

    Nothing that is made from the copy may hold a marker. Returns the number of lines by kind.
    """
    counts: Counter[str] = Counter()
    with written_whole(output) as write:
        for _, _, line in read_lines(reviews, _Any, refusals):
            row = line.model_extra or {}
            pair = (str(row.get("user_id")), str(row.get("item_id")))
            if pair in held_out:
                word = marker(*pair)
                row |= {"title": word, "text": f"{row.get('text') or ''} {word}".strip()}
            counts["poisoned" if pair in held_out else "as it was"] += 1
            write(json.dumps(row, ensure_ascii=False))
    return counts
