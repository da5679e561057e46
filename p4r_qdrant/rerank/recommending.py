"""The best items of the whole catalogue for one user."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import Ranking
from p4r_qdrant.rerank.beside import beside
from p4r_qdrant.rerank.collaborative import history_weights
from p4r_qdrant.rerank.ordering import Order, Request, rank_users
from p4r_qdrant.rerank.users import KnownUser

BREADTH = 100
"""Least number of items that each part proposes; the one score then orders all of them."""


def recommend(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> Ranking:
    """The first `request.top` items of the catalogue without those to `exclude`.

    With `fusion = "standard"` these are the best by the one score of the items with the nearest
    personas and of those with the best collaborative scores. Of equal scores, or if no part that
    knows the user has a weight, the nearer persona comes first. Items without personas stay only if
    there is no filter. Of an unknown user, the most popular items.
    """
    if request.is_standard:
        found = _proposed(pair, user, exclude, request)
        if found:
            return rank_users(pair, [user], [[(one, None) for one in found]], request)[0]
    elif user.vector is not None:
        return _nearest(pair, user, exclude, request)
    return _popular(pair, exclude, request)


def _proposed(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> list[str]:
    """The items that the parts propose; empty if no part knows the user.

    First those by personas, nearest first, then the others by id.
    """
    breadth = max(BREADTH, 2 * (request.top or 0))

    def by_personas() -> list[str]:
        if user.vector is None:
            return []
        directions = pair.directions(user.vector, request.options)
        found = pair.index.nearest_items(
            directions, breadth, request.filter, exclude=exclude, explain=False
        )
        return [one.item_id for one in found]

    def by_items() -> list[str]:
        if not user.items or not request.is_collaborative:
            return []
        [weights] = history_weights(pair.index, [user])
        found = pair.index.collaborative_nearest(weights, breadth, exclude)
        return [item_id for item_id, _ in found]

    near, together = beside(pair.index, by_personas, by_items)
    return [*dict.fromkeys([*near, *sorted(together)])]


def considered(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> list[str]:
    """The items that `recommend` puts in order; empty if nothing is known of the user."""
    if request.is_standard:
        return _proposed(pair, user, exclude, request)
    if user.vector is None:
        return []
    directions = pair.directions(user.vector, request.options)
    breadth = max(BREADTH, request.top or 0)
    near = pair.index.nearest_items(
        directions, breadth, request.filter, exclude=exclude, explain=False
    )
    return [one.item_id for one in near]


def _nearest(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> Ranking:
    """The items with the nearest personas (Eq. 10)."""
    matches = pair.index.nearest_items(
        pair.directions(user.vector, request.options),
        request.top or BREADTH,
        request.filter,
        exclude=exclude,
        with_vectors=isinstance(user.vector, UserVector),
    )
    scores = {one.item_id: one.score for one in matches}
    order = Order(user, {}, matches, scores, interests=request.options.interests)
    return order.ranking(request.top, pair.index.metadata.fingerprint)


def _popular(pair: IndexAndEncoder, exclude: Collection[str], request: Request) -> Ranking:
    """The most popular items that the version records, without scores and reasons."""
    metadata = pair.index.metadata
    kept = [(one, None) for one in metadata.popular_items if one not in exclude]
    if not kept:
        return Ranking((), personalized=False, fingerprint=metadata.fingerprint)
    nobody = dataclasses.replace(request, explain=0)
    return rank_users(pair, [KnownUser(None)], [[*kept]], nobody)[0]
