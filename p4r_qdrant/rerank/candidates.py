"""Check the candidate lists that callers pass in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Candidate

CandidateLike = str | tuple[str, float | None] | Candidate
"""An item id, with or without the generator's score. Lists of candidates are best first."""

Scored = tuple[str, float | None]
"""An item id and the generator's score."""


def distinct_candidates(candidates: Sequence[CandidateLike], position: int) -> list[Scored]:
    """The candidates of the user at `position`. Of a repeated id the first one counts.

    Raises InputError.
    """
    if isinstance(candidates, str):
        raise InputError("candidates must be a list of item ids, not one text")
    pairs: dict[str, float | None] = {}
    for candidate in candidates:
        item_id, score = _scored(candidate, position)
        pairs.setdefault(item_id, score)
    if not pairs:
        raise InputError(f"user {position} has no candidates; give at least one item id")
    return list(pairs.items())


def _scored(candidate: CandidateLike, position: int) -> Scored:
    if isinstance(candidate, Candidate):
        item_id, score = candidate.item_id, candidate.score
    elif isinstance(candidate, str):
        item_id, score = candidate, None
    else:
        try:
            item_id, score = candidate
            score = None if score is None else float(score)
        except (TypeError, ValueError):
            raise InputError(
                f"candidate {candidate!r} of user {position} is neither an item id nor a pair of "
                "an item id and a number"
            ) from None
    if not isinstance(item_id, str):
        raise InputError(
            f"the item id {item_id!r} of user {position} is not a string; use str({item_id!r})"
        )
    if score is not None and not math.isfinite(score):
        raise InputError(f"the generator's score of candidate {item_id!r} is {score}")
    return item_id, score
