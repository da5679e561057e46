"""A user's history with one item less, or one more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector, newest_first, user_vector
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import Interaction
from p4r_qdrant.rerank.users import (
    Items,
    KnownUser,
    User,
    items_of,
    known_interaction,
    known_users,
)

Encoded = tuple[Interaction, Floats | None]
"""An interaction and its embedding, (dim,); None if it has no text."""


@dataclass(frozen=True, slots=True)
class Past:
    """A user and the history that can be changed.

    interactions: newest first; more than the user vector is made of, so that older ones can take
    the place of one that is left out. length, decay: of the user vector (Eq. 7). is_plain: whether
    only a vector is known.
    """

    user: KnownUser
    interactions: Sequence[Encoded]
    length: int
    decay: float
    is_plain: bool = False

    def vector(self, interactions: Sequence[Encoded]) -> UserVector | None:
        """h_u of other interactions, newest first."""
        spoken = [(one, row) for one, row in interactions[: self.length] if row is not None]
        if not spoken:
            return None
        return user_vector(
            [one for one, _ in spoken], np.stack([row for _, row in spoken]), self.decay
        )


@dataclass(frozen=True, slots=True)
class Changed:
    """The user after a change: without an item, or (`adds`) with one more."""

    item_id: str
    title: str
    adds: bool
    user: KnownUser


def past_of(pair: IndexAndEncoder, user: User) -> Past:
    """The history of a user as callers give it.

    Of a `UserVector` the interactions behind it are unknown: nothing takes the place of one that is
    left out. Raises VectorError as `known_users` does.
    """
    length, decay = pair.history.length, pair.history.decay
    if isinstance(user, Sequence) and len(user) and isinstance(user[0], Interaction):
        whole: Sequence[Interaction] = user  # type: ignore[assignment]
        ordered = newest_first(whole, len(whole))
        most = max(Counter(one.item_id for one in ordered).values())
        encoded = _encoded(pair, ordered[: length + most])
        past = Past(KnownUser(None, items_of(whole)), encoded, length, decay)
        made = KnownUser(past.vector(encoded), past.user.items)
        return Past(made, encoded, length, decay)
    [known] = known_users(pair, [user])
    vector = known.vector
    if not isinstance(vector, UserVector):
        return Past(known, (), length, decay, is_plain=vector is not None)
    rows = [*zip(vector.interactions, vector.embeddings, strict=True)]
    return Past(known, rows, length, decay)


def _encoded(pair: IndexAndEncoder, interactions: Sequence[Interaction]) -> list[Encoded]:
    of_texts = [texts.interaction_text(one) for one in interactions]
    wanted = [*dict.fromkeys(filter(None, of_texts))]
    row_of: dict[str, Floats] = {}
    if wanted:
        row_of = dict(zip(wanted, pair.encoder.encode_queries(wanted), strict=True))
    return [(one, row_of.get(text)) for one, text in zip(interactions, of_texts, strict=True)]


def left_out(past: Past) -> list[Changed]:
    """The user without each of the own items; the oldest first, which weighs least."""
    if past.is_plain:
        return []
    counted = {one.item_id for one, _ in past.interactions[: past.length]}
    titles = {one.item_id: one.title for one, _ in past.interactions} | {**past.user.items}
    newest = dict.fromkeys([*past.user.items, *titles])
    changed = []
    for item_id in reversed(newest):
        vector = past.user.vector
        if item_id in counted:
            vector = past.vector([one for one in past.interactions if one[0].item_id != item_id])
        items = {one: title for one, title in past.user.items.items() if one != item_id}
        changed.append(Changed(item_id, titles[item_id], False, KnownUser(vector, items)))
    return changed


def added(
    pair: IndexAndEncoder, past: Past, item_id: str, most: int, *, with_columns: bool
) -> list[Changed]:
    """The user with one more item as the newest: up to `most` items that may speak for `item_id`.

    First those that people choose together with it (with_columns: the index has a collaborative
    part), then those with the personas nearest to its own. Items of the history are left out.
    """
    if past.is_plain:
        return []
    unwanted = {item_id, *past.user.items, *(one.item_id for one, _ in past.interactions)}
    proposed: dict[str, None] = {}
    if with_columns:
        together = pair.index.collaborative_nearest({item_id: 1.0}, most, unwanted)
        proposed |= dict.fromkeys(one for one, _ in together)
    own = next((rows for _, rows in pair.index.vectors_of([item_id])), None)
    if len(proposed) < most and own is not None:
        near = pair.index.nearest_items(own, most, exclude=unwanted, explain=False)
        proposed |= dict.fromkeys(one.item_id for one in near)
    newest = max((one.timestamp for one, _ in past.interactions), default=0) + 1
    found = [known_interaction(pair.index, one, newest) for one in [*proposed][:most]]
    changed = []
    for one, row in _encoded(pair, [one for one in found if one is not None]):
        if row is not None:
            vector = past.vector([(one, row), *past.interactions])
            items: Items = {one.item_id: one.title, **past.user.items}
            changed.append(Changed(one.item_id, one.title, True, KnownUser(vector, items)))
    return changed
