"""From scored points to ranked matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError, VectorError
from p4r_qdrant.index.payload import (
    SHORTEST,
    check_rows,
    check_vectors,
)
from p4r_qdrant.records import PersonaMatch

MAX_CANDIDATES = 10_000
"""Candidates one user may have in one call."""


ROUNDING = 1e-6
"""How far a unit vector's length may be from 1."""


def rank_matches(
    best: Mapping[str, tuple[float, str]], item_ids: Sequence[str]
) -> list[PersonaMatch]:
    """Every candidate as a match: best score first, ties by item id, then those without."""
    scored = sorted(best.items(), key=lambda one: (-one[1][0], one[0]))
    matches = [PersonaMatch(item_id, score, point) for item_id, (score, point) in scored]
    if len(matches) < len(item_ids):
        matches += [PersonaMatch(item_id) for item_id in item_ids if item_id not in best]
    return matches


def keep_better(best: dict[str, tuple[float, str]], item_id: str, score: float, point: str) -> None:
    """Of equal scores the lower slot."""
    held = best.get(item_id)
    if held is None or score > held[0] or (score == held[0] and point < held[1]):
        best[item_id] = (score, point)


def unit_directions(rows: Floats) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Rows (n, dim) as unit vectors and lengths (n,); one of no length may point anywhere."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    lengths[np.abs(lengths - 1) < ROUNDING] = 1
    unit = (rows / np.maximum(lengths, SHORTEST)[:, None]).astype(np.float32)
    unit[lengths < SHORTEST] = np.eye(1, rows.shape[1], dtype=np.float32)
    return unit, np.where(lengths < SHORTEST, 0.0, lengths)


def is_gone(explained: Sequence[PersonaMatch]) -> bool:
    """Whether a persona was scored but no longer exists."""
    return any(match.point_id is not None and match.persona is None for match in explained)


def check_query(
    user_vectors: npt.ArrayLike, candidate_ids: Sequence[Sequence[str]], dimension: int
) -> tuple[list[Floats], list[list[str]]]:
    """Each user's directions (k, dim), and distinct candidates in their order.

    A user given as one vector (dim,) has one direction, of unit length.
    """
    if isinstance(candidate_ids, str) or any(isinstance(ids, str) for ids in candidate_ids):
        raise InputError("candidate_ids must hold one list of item ids for each user")
    given: Any = user_vectors
    if not len(candidate_ids):
        return [], []
    first = next(iter(given), None) if isinstance(given, Sequence | np.ndarray) else None
    if isinstance(first, np.ndarray) and first.ndim == 2:
        users = [check_rows(one, dimension, f"user {n}")[0] for n, one in enumerate(given)]
        if not all(map(len, users)):
            raise VectorError("each user needs at least one direction")
    else:
        users = list(check_vectors(given, dimension, "the users")[:, None])
    if len(users) != len(candidate_ids):
        raise InputError(f"{len(users)} user vectors but {len(candidate_ids)} candidate lists")
    distinct = [list(dict.fromkeys(ids)) for ids in candidate_ids]
    for ids in distinct:
        if len(ids) > MAX_CANDIDATES:
            raise InputError(
                f"a user has {len(ids)} candidates, at most {MAX_CANDIDATES} can be reranked"
            )
        try:
            "".join(ids).encode()
        except (TypeError, UnicodeEncodeError):
            wrong = next(one for one in ids if not is_text(one))
            raise InputError(f"the candidate {wrong!r} is no text that can be an item id") from None
    return users, distinct


def is_text(value: Any) -> bool:
    """Whether this is a string without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)
