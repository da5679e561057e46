"""The best items of the whole catalogue for one user."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import PersonaMatch, Ranking
from p4r_qdrant.rerank import collaborative
from p4r_qdrant.rerank.beside import beside
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.ordering import (
    Order,
    Request,
    explain_orders,
    order_candidates,
    rank_users,
)
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
        state = pair.index.engine.state()
        proposed = _proposed(pair, user, exclude, request)
        if proposed.items:
            return _in_order(pair, user, proposed, request, state)
    elif user.vector is not None:
        return _nearest(pair, user, exclude, request)
    return _popular(pair, exclude, request)


@dataclass(frozen=True, slots=True)
class _Proposed:
    """What the parts propose.

    near: the nearest items by personas. together: items by c(u, i), of the collaborative part
    `part`.
    """

    near: list[PersonaMatch]
    together: Mapping[str, float]
    part: CollaborativePart | None

    @property
    def items(self) -> list[str]:
        """First those by personas, nearest first, then the others by id."""
        return [*dict.fromkeys([*(one.item_id for one in self.near), *sorted(self.together)])]


def _proposed(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> _Proposed:
    """The items that the parts propose; none if no part knows the user."""
    breadth = max(BREADTH, 2 * (request.top or 0))

    def by_personas() -> list[PersonaMatch]:
        if user.vector is None:
            return []
        directions = pair.directions(user.vector, request.options)
        return pair.index.nearest_items(
            directions, breadth, request.filter, exclude=exclude, explain=False
        )

    def by_items() -> dict[str, float]:
        if not user.items or not request.is_collaborative:
            return {}
        [weights] = collaborative.history_weights(pair.index, [user])
        return dict(pair.index.collaborative_nearest(weights, breadth, exclude))

    part = pair.index.collaborative
    near, together = beside(pair.index, by_personas, by_items)
    return _Proposed(near, together, part)


def _in_order(
    pair: IndexAndEncoder,
    user: KnownUser,
    proposed: _Proposed,
    request: Request,
    state: int | None,
) -> Ranking:
    """The proposed items by the one score. Each part is asked only for what it did not propose.

    state: of the index before the proposals.
    """
    items: list[Scored] = [(one, None) for one in proposed.items]
    if user.vector is None:
        return rank_users(pair, [user], [items], request)[0]
    directions = pair.directions(user.vector, request.options)
    near = {one.item_id for one in proposed.near}
    far = [one for one in proposed.items if one not in near]
    apart = [one for one in proposed.items if one not in proposed.together]

    def personas() -> list[PersonaMatch]:
        if not far:
            return []
        return pair.index.best_personas([directions], [far], request.filter, explain=0)[0]

    def sums() -> Mapping[str, float]:
        if not apart or not request.is_collaborative:
            return {}
        return collaborative.scores(pair.index, [user], [apart])[0]

    more, more_sums = beside(pair.index, personas, sums)
    together = {**proposed.together, **more_sums}
    order = order_candidates(user, items, [*proposed.near, *more], request, together)
    fits = explain_orders(pair.index, [order], [directions], request.shown, state)
    if fits and pair.index.collaborative == proposed.part:
        return order.ranking(request.top, pair.index.metadata.fingerprint)
    # An item was replaced since the queries, or B fitted again: score anew, so that all fits.
    return rank_users(pair, [user], [items], request)[0]


def considered(
    pair: IndexAndEncoder, user: KnownUser, exclude: Collection[str], request: Request
) -> list[str]:
    """The items that `recommend` puts in order; empty if nothing is known of the user."""
    if request.is_standard:
        return _proposed(pair, user, exclude, request).items
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
