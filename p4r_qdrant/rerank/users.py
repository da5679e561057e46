"""Turn the users that callers pass in into vectors and the items that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.encoder.user_vector import UserVector, newest_first
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import ITEM_TITLE, SUMMARY, check_vectors
from p4r_qdrant.live.pair import IndexAndEncoder, Vector
from p4r_qdrant.records import Interaction

Items = Mapping[str, str]
"""Titles by item id of a whole history, newest first."""


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A user whose vector is made already.

    vector: None if nothing is known that an encoder can read. items: the whole history, which the
    collaborative score needs.
    """

    vector: Vector | None
    items: Items = field(default_factory=dict)


User = (
    KnownUser
    | UserVector
    | Sequence[Interaction]
    | npt.NDArray[np.floating[Any]]
    | Sequence[float]
    | None
)
"""A history in any order, a user vector, a plain vector (dim,), or None or [] if unknown.

Of a history all items count for the collaborative score, of a `UserVector` those that it is made
of; a plain vector has none.
"""


def items_of(history: Sequence[Interaction]) -> dict[str, str]:
    """The items of a history in any order."""
    return {one.item_id: one.title for one in newest_first(history, len(history))}


def known_interaction(index: PersonaIndex, item_id: str, timestamp: int) -> Interaction | None:
    """An interaction with an item of the index, with its texts; None if the index lacks it."""
    personas = index.get(item_id)
    if not personas:
        return None
    title, summary = (str(personas[0].fields.get(name) or "") for name in (ITEM_TITLE, SUMMARY))
    return Interaction(item_id, timestamp, summary, title)


def known_users(pair: IndexAndEncoder, users: Sequence[User]) -> list[KnownUser]:
    """What is known of each user: h_u of a history (Eq. 7), and its items.

    All histories are encoded as one batch. Raises VectorError if a vector does not fit the index.
    """
    known = [KnownUser(None)] * len(users)
    histories: dict[int, Sequence[Interaction]] = {}
    for position, user in enumerate(users):
        if isinstance(user, KnownUser):
            known[position] = KnownUser(_checked(pair, user.vector, position), user.items)
        elif isinstance(user, UserVector):
            known[position] = KnownUser(_checked(pair, user, position), items_of(user.interactions))
        elif user is None or len(user) == 0:
            continue
        elif isinstance(user[0], Interaction):
            histories[position] = user  # type: ignore[assignment]
        else:
            known[position] = KnownUser(_checked(pair, user, position))
    if histories:
        encoded = pair.encoder.user_vectors(
            list(histories.values()), length=pair.history.length, decay=pair.history.decay
        )
        for (position, history), vector in zip(histories.items(), encoded, strict=True):
            known[position] = KnownUser(vector, items_of(history))
    return known


def _checked(pair: IndexAndEncoder, vector: Any, position: int) -> Vector | None:
    """The vector of the user at `position`; a plain one as (dim,) float32, normalised."""
    if vector is None:
        return None
    dimension, where = pair.index.metadata.dimension, f"user {position}"
    if isinstance(vector, UserVector):
        check_vectors([vector.vector], dimension, where)
        return vector
    checked: Vector = check_vectors([vector], dimension, where)[0]
    return checked
