"""Rerank for a user whose vector a query names instead of carrying it."""

from __future__ import annotations

from collections.abc import Mapping

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.matching import are_whole
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import PersonaMatch, Ranking
from p4r_qdrant.rerank import collaborative
from p4r_qdrant.rerank.beside import beside
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.ordering import Request, explain_orders, order_candidates, rank_users
from p4r_qdrant.rerank.users import Items, KnownUser
from p4r_qdrant.users.records import StoredUser

SAME = 5e-3
"""Largest difference between a score and the product of a stored user's and a persona's vector."""


def rank_stored(
    pair: IndexAndEncoder, user: StoredUser, candidates: list[Scored], request: Request
) -> Ranking:
    """The ranking of one user's candidates.

    Raises IndexMismatchError if the vector is not there.
    """
    if request.options.interests or request.options.prior:
        # The query needs more than the stored vector.
        vector, items = user.load(), user.items() if request.is_collaborative else {}
        return rank_users(pair, [KnownUser(vector, items)], [candidates], request)[0]
    item_ids = [item_id for item_id, _ in candidates]

    def personas() -> tuple[list[PersonaMatch], UserVector]:
        matches = pair.index.best_personas_of(
            user.point, item_ids, request.filter, explain=request.explained_by_query
        )
        return matches, user.load()

    def items_and_scores() -> tuple[Items, Mapping[str, float]]:
        items = user.items()
        [scores] = collaborative.scores(pair.index, [KnownUser(None, items)], [item_ids])
        return items, scores

    if request.is_collaborative:
        (matches, vector), (items, scores) = beside(pair.index, personas, items_and_scores)
    else:
        (matches, vector), items, scores = personas(), {}, {}
    known, direction = KnownUser(vector, items), vector.vector[None]
    order = order_candidates(known, candidates, matches, request, scores)
    if request.is_fused:
        explain_orders(pair.index, [order], [direction], request.shown)
    if are_whole(order.matches[: request.shown], direction, SAME):
        return order.ranking(request.top, pair.index.metadata.fingerprint)
    # The user or an item changed since the query: score again, so that texts and reasons fit.
    return rank_users(pair, [known], [candidates], request)[0]
