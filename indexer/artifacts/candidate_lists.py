"""Read a candidates file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from indexer.artifacts.lines import Refusals, read_lines
from p4r_qdrant.index.query import MAX_CANDIDATES
from p4r_qdrant.records import (
    CandidateList,
)


def read_candidates(path: Path, refusals: Refusals) -> Iterator[CandidateList]:
    """Stream a candidates file.

    Broken lines, repeated users, empty lists and lists that are too long are refused.
    """
    seen: dict[str, int] = {}
    for number, _, record in read_lines(path, CandidateList, refusals):
        first = seen.setdefault(record.user_id, number)
        if first != number:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} is already on line {first}; keep one",
                "repeated user",
            )
        elif not record.results:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} has no candidates", "no candidates"
            )
        elif len(record.results) > MAX_CANDIDATES:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} has {len(record.results)} candidates, "
                f"at most {MAX_CANDIDATES} can be reranked",
                "too many candidates",
            )
        else:
            yield record
