"""Check the arguments of a query, and make unit directions of users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError, VectorError
from p4r_qdrant.index.engine import BestPoints
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.payload import SHORTEST, check_rows, check_vectors

MAX_CANDIDATES = 10_000
"""Largest number of candidates of one user in one call."""

ROUNDING = 1e-6
"""Largest difference between the length of a unit vector and 1."""


@dataclass(frozen=True, slots=True)
class Query:
    """Users and their candidates, checked.

    users: the directions of each user, (k, dim) float32. candidates: distinct item ids for each
    user. explain: number of first matches that get their persona's texts; None: all. top: number
    of first matches that are wanted; None: all.
    """

    users: list[Floats]
    candidates: list[list[str]]
    conditions: list[Condition]
    explain: int | None = None
    with_vectors: bool = False
    top: int | None = None

    def of_users(self, positions: Sequence[int]) -> Query:
        """The same query for some of its users."""
        return replace(
            self,
            users=[self.users[one] for one in positions],
            candidates=[self.candidates[one] for one in positions],
        )


def unit_directions(rows: Floats) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Rows (n, dim) as unit vectors, and their lengths (n,). A zero row gets any direction."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    lengths[np.abs(lengths - 1) < ROUNDING] = 1
    unit = (rows / np.maximum(lengths, SHORTEST)[:, None]).astype(np.float32)
    unit[lengths < SHORTEST] = np.eye(1, rows.shape[1], dtype=np.float32)
    return unit, np.where(lengths < SHORTEST, 0.0, lengths)


def scores_of(found: Sequence[BestPoints], item_ids: Sequence[str]) -> Floats:
    """The scores of best points of several users: (n_users, n_items) float32, NaN where none is."""
    none = (np.nan, "")
    rows = [[best.get(item_id, none)[0] for item_id in item_ids] for best in found]
    return np.array(rows, np.float32).reshape(len(found), len(item_ids))


def check_query(
    user_vectors: npt.ArrayLike, candidate_ids: Sequence[Sequence[str]], dimension: int
) -> tuple[list[Floats], list[list[str]]]:
    """Each user's directions (k, dim), and the distinct candidates in their order.

    A user that is one vector (dim,) has one direction, of unit length. Raises InputError and
    VectorError.
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
            raise InputError(
                f"the candidate {wrong!r} is not a text that can be an item id"
            ) from None
    return users, distinct


def distinct_texts(values: Iterable[Any]) -> list[str]:
    """Those of the values that are texts (see `is_text`), each once, in their order."""
    texts = [*values]
    try:
        "".join(texts).encode()  # much faster than one by one
    except (TypeError, UnicodeEncodeError):
        texts = [one for one in texts if is_text(one)]
    return [*dict.fromkeys(texts)]


def is_text(value: Any) -> bool:
    """Whether this is a string without lone surrogates."""
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)
    )
