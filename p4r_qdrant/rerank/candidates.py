"""What callers pass in: users and candidate lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Candidate, Interaction

User = UserVector | Sequence[Interaction] | npt.NDArray[np.floating[Any]] | Sequence[float] | None
"""A history in any order or what became of one, a vector (dim,), or None (and []) for somebody
unknown."""


Vector = UserVector | npt.NDArray[np.float32]


CandidateLike = str | tuple[str, float | None] | Candidate
"""An item id, or one with the generator's score; lists of them are best first."""


def distinct_candidates(
    candidates: Sequence[CandidateLike], position: int
) -> list[tuple[str, float | None]]:
    """Candidates as (item id, generator score), each id once, at its first place."""
    if isinstance(candidates, str):
        raise InputError("candidates must be a list of item ids, not one text")
    pairs: dict[str, float | None] = {}
    for candidate in candidates:
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
                    f"candidate {candidate!r} of user {position} is neither an item id nor an id "
                    "with a number"
                ) from None
        if not isinstance(item_id, str):
            raise InputError(f"the candidate {item_id!r} of user {position} is no text; use str()")
        if score is not None and not math.isfinite(score):
            raise InputError(f"the generator's score of candidate {item_id!r} is {score}")
        pairs.setdefault(item_id, score)
    if not pairs:
        raise InputError(f"user {position} has no candidates; give at least one item id")
    return list(pairs.items())
