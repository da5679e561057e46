"""One user's candidates on their way into a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.records import PersonaMatch, RankedItem, Ranking
from p4r_qdrant.rerank.candidates import Vector
from p4r_qdrant.rerank.fusion import best_first, fused_scores
from p4r_qdrant.settings import RerankSettings


@dataclass(slots=True)
class Order:
    """One user's candidates on their way into a ranking; `vector` is None for somebody unknown.

    generator: each item's place (from 1) and score there. scores: what ordered the matches.
    interests: see `RerankSettings`.
    """

    vector: Vector | None
    generator: Mapping[str, tuple[int, float | None]]
    matches: list[PersonaMatch]
    scores: Mapping[str, float | None]
    interests: float = 0.0

    def ranking(self, top: int | None, fingerprint: str) -> Ranking:
        """The first `top` as callers get them."""
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


def explain_orders(index: PersonaIndex, orders: Sequence[Order], shown: int | None) -> None:
    """Give the first matches of each order their texts, those of all users in one request."""
    asked = [order for order in orders if order.vector is not None]
    told = iter(
        index.explain(
            [match for order in asked for match in order.matches[:shown]],
            with_vectors=any(isinstance(order.vector, UserVector) for order in asked),
        )
    )
    for order in asked:
        first = len(order.matches[:shown])
        order.matches[:first] = islice(told, first)


def order_candidates(
    vector: Vector | None,
    candidates: list[tuple[str, float | None]],
    matches: list[PersonaMatch] | None,
    options: RerankSettings,
    *,
    only_matching: bool,
) -> Order:
    """One user's candidates in their final order, by persona scores or fused ones."""
    generator = {
        item_id: (place, score) for place, (item_id, score) in enumerate(candidates, start=1)
    }
    if only_matching and matches is not None:
        matches = [one for one in matches if one.score is not None]
        kept = {one.item_id for one in matches}
        candidates = [one for one in candidates if one[0] in kept]
    if vector is None or matches is None:
        unknown = [PersonaMatch(item_id) for item_id, _ in candidates]
        return Order(None, generator, unknown, {})
    scores = {one.item_id: one.score for one in matches}
    if options.fusion != "none":
        scores = fused_scores(scores, candidates, options)
        # Without either score the generator's order holds; Python's sort is stable.
        matches = sorted(matches, key=lambda one: best_first(scores[one.item_id], one.item_id))
    return Order(vector, generator, matches, scores, options.interests)


def smaller_limit(top: int | None, explain: int | None) -> int | None:
    """The smaller of two limits; None means no limit."""
    given = [limit for limit in (top, explain) if limit is not None]
    return min(given) if given else None
