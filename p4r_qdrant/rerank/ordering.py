"""Put the candidates of users in order, and explain the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.matching import ATTEMPTS, are_whole
from p4r_qdrant.live.pair import IndexAndEncoder, Vector
from p4r_qdrant.records import PersonaMatch, RankedItem, Ranking
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.fusion import best_first, fused_scores
from p4r_qdrant.settings import RerankSettings


@dataclass(frozen=True, slots=True)
class Request:
    """What one call asks for all of its users; see `PersonaReranker.rerank_many`."""

    options: RerankSettings
    top: int | None = None
    filter: Mapping[str, Any] | None = None
    explain: int | None = 10

    @property
    def is_fused(self) -> bool:
        """Whether the generator's scores are mixed in."""
        return self.options.fusion != "none"

    @property
    def shown(self) -> int | None:
        """How many items of each ranking are explained; None means all."""
        given = [limit for limit in (self.top, self.explain) if limit is not None]
        return min(given) if given else None

    @property
    def explained_by_query(self) -> int | None:
        """How many items the query explains itself. With fusion the order is known only later."""
        return 0 if self.is_fused else self.shown


@dataclass(slots=True)
class Order:
    """One user's candidates in their final order.

    vector: None if nothing is known of the user. generator: each item's rank (from 1) and score
    there. scores: the scores that ordered the matches. interests: see `RerankSettings`.
    """

    vector: Vector | None
    generator: Mapping[str, tuple[int, float | None]]
    matches: list[PersonaMatch]
    scores: Mapping[str, float | None]
    interests: float = 0.0

    def ranking(self, top: int | None, fingerprint: str) -> Ranking:
        """The first `top` items as callers get them."""
        return Ranking(
            tuple(
                RankedItem(
                    item_id=match.item_id,
                    rank=rank,
                    score=self.scores.get(match.item_id),
                    persona_score=match.score,
                    persona=match.persona,
                    because=(
                        self.vector.because(match.vector, self.interests)
                        if isinstance(self.vector, UserVector) and match.vector is not None
                        else ()
                    ),
                    generator_score=self.generator[match.item_id][1],
                    generator_rank=self.generator[match.item_id][0],
                )
                for rank, match in enumerate(self.matches[:top], start=1)
            ),
            personalized=self.vector is not None,
            fingerprint=fingerprint,
        )


def rank_users(
    pair: IndexAndEncoder,
    vectors: Sequence[Vector | None],
    lists: Sequence[list[Scored]],
    request: Request,
) -> list[Ranking]:
    """The ranking of each user's candidates; all users are scored in one query.

    With fusion it is asked again where an item was replaced before its texts were read.
    """
    for _ in range(ATTEMPTS):
        orders, directions = _ordered(pair, vectors, lists, request)
        if not request.is_fused or explain_orders(pair.index, orders, directions, request.shown):
            break
    return [order.ranking(request.top, pair.index.metadata.fingerprint) for order in orders]


def _ordered(
    pair: IndexAndEncoder,
    vectors: Sequence[Vector | None],
    lists: Sequence[list[Scored]],
    request: Request,
) -> tuple[list[Order], list[Floats]]:
    """The order of each user's candidates, and the directions of each user that has a vector."""
    index = pair.index
    filtered = request.filter is not None
    queried = [
        position for position, vector in enumerate(vectors) if vector is not None or filtered
    ]
    matches: dict[int, list[PersonaMatch]] = {}
    directions = [pair.directions(vectors[one], request.options) for one in queried]
    if queried:
        found = index.best_personas(
            directions,
            [[item_id for item_id, _ in lists[one]] for one in queried],
            request.filter,
            explain=request.explained_by_query,
            with_vectors=not request.is_fused
            and any(isinstance(one, UserVector) for one in vectors),
        )
        matches = dict(zip(queried, found, strict=True))
    orders = [
        order_candidates(vector, candidates, matches.get(position), request)
        for position, (vector, candidates) in enumerate(zip(vectors, lists, strict=True))
    ]
    known = [
        rows for one, rows in zip(queried, directions, strict=True) if vectors[one] is not None
    ]
    return orders, known


def order_candidates(
    vector: Vector | None,
    candidates: list[Scored],
    matches: list[PersonaMatch] | None,
    request: Request,
) -> Order:
    """Order one user's candidates by persona scores or fused scores.

    matches: None if the index was not queried. With a filter, only candidates that match it stay.
    """
    generator = {item_id: (rank, score) for rank, (item_id, score) in enumerate(candidates, 1)}
    if request.filter is not None and matches is not None:
        matches = [one for one in matches if one.score is not None]
        kept = {one.item_id for one in matches}
        candidates = [one for one in candidates if one[0] in kept]
    if vector is None or matches is None:
        return Order(None, generator, [PersonaMatch(item_id) for item_id, _ in candidates], {})
    scores = {one.item_id: one.score for one in matches}
    if request.is_fused:
        scores = fused_scores(scores, candidates, request.options)
        # Items without either score keep the generator's order: Python's sort is stable.
        matches = sorted(matches, key=lambda one: best_first(scores[one.item_id], one.item_id))
    return Order(vector, generator, matches, scores, request.options.interests)


def explain_orders(
    index: PersonaIndex, orders: Sequence[Order], directions: Sequence[Floats], shown: int | None
) -> bool:
    """Read the texts of the first `shown` matches of each order, all in one request.

    directions: (k, dim) of each order with a vector. Returns whether scores and texts fit.
    """
    personal = [order for order in orders if order.vector is not None]
    explained = iter(
        index.explain(
            [match for order in personal for match in order.matches[:shown]], with_vectors=True
        )
    )
    fit = True
    for order, rows in zip(personal, directions, strict=True):
        first = list(islice(explained, len(order.matches[:shown])))
        order.matches[: len(first)] = first
        fit = fit and are_whole(first, rows)
    return fit
