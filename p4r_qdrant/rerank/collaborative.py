"""The collaborative part of a score: c(u, i), and the user's own items that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from p4r_qdrant.encoder.user_vector import decay_weights
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.records import Because
from p4r_qdrant.rerank.users import KnownUser


def history_weights(index: PersonaIndex, users: Sequence[KnownUser]) -> list[dict[str, float]]:
    """w_uj of each item of each user's whole history: g^(j-1), newest first (Eq. 7)."""
    part = index.collaborative
    decay = float(part.settings.get("decay", 1.0)) if part is not None else 1.0
    return [
        dict(zip(one.items, decay_weights(len(one.items), decay).tolist(), strict=True))
        for one in users
    ]


def scores(
    index: PersonaIndex, users: Sequence[KnownUser], candidate_ids: Sequence[Sequence[str]]
) -> list[Mapping[str, float]]:
    """c(u, i) of each user's candidates, in one call; empty if nothing of the user is known."""
    asked = [position for position, user in enumerate(users) if user.items]
    found: list[Mapping[str, float]] = [{}] * len(users)
    if asked:
        histories = history_weights(index, [users[one] for one in asked])
        given = index.collaborative_scores(histories, [candidate_ids[one] for one in asked])
        for position, own in zip(asked, given, strict=True):
            found[position] = own
    return found


def own_items(
    index: PersonaIndex, user: KnownUser, item_ids: Sequence[str]
) -> dict[str, tuple[Because, ...]]:
    """For each item the user's own items that speak for it, w_uj B[j, i], largest first."""
    shares = index.collaborative_shares(history_weights(index, [user])[0], item_ids)
    found = {}
    for item_id, contributions in shares.items():
        speaking = [(own, value) for own, value in contributions if value > 0]
        total = sum(value for _, value in speaking)
        found[item_id] = tuple(
            Because(own, user.items.get(own, ""), value, value / total) for own, value in speaking
        )
    return found
