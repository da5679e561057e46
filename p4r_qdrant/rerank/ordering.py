"""Put the candidates of users in order, and explain the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.matching import are_whole, attempts
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import Because, Parts, PersonaMatch, RankedItem, Ranking
from p4r_qdrant.rerank import collaborative
from p4r_qdrant.rerank.beside import beside
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.fusion import best_first, fused_scores
from p4r_qdrant.rerank.scoring import Weights, resolved
from p4r_qdrant.rerank.standard import combined, standard_columns
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.settings import RerankSettings


@dataclass(frozen=True, slots=True)
class Request:
    """What one call asks for all of its users; see `PersonaReranker.rerank_many`.

    options: with a definite `fusion`. has_generator: whether the lists are a generator's.
    """

    options: RerankSettings
    weights: Weights
    top: int | None = None
    filter: Mapping[str, Any] | None = None
    explain: int | None = 10
    has_generator: bool = True

    @classmethod
    def of(cls, index: PersonaIndex, options: RerankSettings, *more: Any) -> Request:
        """A request about lists of a generator. Raises as `scoring.resolved` does."""
        return cls(*resolved(options, index), *more)

    @property
    def is_fused(self) -> bool:
        """Whether more than persona scores order the candidates."""
        return self.options.fusion != "none"

    @property
    def is_standard(self) -> bool:
        """Whether the one score of all parts orders the candidates."""
        return self.options.fusion == "standard"

    @property
    def is_collaborative(self) -> bool:
        """Whether collaborative scores are needed."""
        return self.is_standard and self.weights.collaborative > 0

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

    generator: each item's rank (from 1) and score there. scores: the scores that ordered the
    matches. collaborative: c(u, i), empty if that part is left out. parts, chosen_with: see
    `RankedItem`. interests: see `RerankSettings`.
    """

    user: KnownUser
    generator: Mapping[str, tuple[int, float | None]]
    matches: list[PersonaMatch]
    scores: Mapping[str, float | None] = field(default_factory=dict)
    collaborative: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Parts] = field(default_factory=dict)
    chosen_with: Mapping[str, tuple[Because, ...]] = field(default_factory=dict)
    interests: float = 0.0

    @property
    def is_personalized(self) -> bool:
        """Whether something of the user was compared."""
        return self.user.vector is not None or bool(self.collaborative)

    def ranking(self, top: int | None, fingerprint: str) -> Ranking:
        """The first `top` items as callers get them."""
        return Ranking(
            tuple(self.item(rank, one) for rank, one in enumerate(self.matches[:top], start=1)),
            personalized=self.is_personalized,
            fingerprint=fingerprint,
        )

    def item(self, rank: int, match: PersonaMatch) -> RankedItem:
        """One match as callers get it. rank: from 1."""
        vector = self.user.vector
        generator_rank, generator_score = self.generator.get(match.item_id, (0, None))
        return RankedItem(
            item_id=match.item_id,
            rank=rank,
            score=self.scores.get(match.item_id),
            persona_score=match.score if vector is not None else None,
            persona=match.persona,
            because=(
                vector.because(match.vector, self.interests)
                if isinstance(vector, UserVector) and match.vector is not None
                else ()
            ),
            generator_score=generator_score,
            generator_rank=generator_rank,
            collaborative_score=self.collaborative.get(match.item_id),
            parts=self.parts.get(match.item_id),
            chosen_with=self.chosen_with.get(match.item_id, ()),
        )


def rank_users(
    pair: IndexAndEncoder,
    users: Sequence[KnownUser],
    lists: Sequence[list[Scored]],
    request: Request,
) -> list[Ranking]:
    """The ranking of each user's candidates; all users are scored in one query.

    With fusion it is asked again where an item was replaced before its texts were read.
    """
    index, shown = pair.index, request.shown
    # After a write elsewhere in the index, vectors tell which users it concerns.
    state = index.engine.state() if request.is_fused else None
    for attempt in attempts(index.engine):
        with attempt:
            orders, directions = _ordered(pair, users, lists, request)
            if not request.is_fused or explain_orders(index, orders, directions, shown, state):
                break
        state = None
    return [order.ranking(request.top, pair.index.metadata.fingerprint) for order in orders]


def _ordered(
    pair: IndexAndEncoder,
    users: Sequence[KnownUser],
    lists: Sequence[list[Scored]],
    request: Request,
) -> tuple[list[Order], list[Floats]]:
    """The order of each user's candidates, and the directions of each user that has a vector."""
    index = pair.index
    filtered = request.filter is not None
    queried = [
        position for position, user in enumerate(users) if user.vector is not None or filtered
    ]
    directions = [pair.directions(users[one].vector, request.options) for one in queried]
    item_ids = [[item_id for item_id, _ in one] for one in lists]

    def best_personas() -> list[list[PersonaMatch]]:
        if not queried:
            return []
        is_for_order = not request.is_fused and all(
            users[one].vector is not None for one in queried
        )
        return index.best_personas(
            directions,
            [item_ids[one] for one in queried],
            request.filter,
            explain=request.explained_by_query,
            with_vectors=not request.is_fused
            and any(isinstance(one.vector, UserVector) for one in users),
            top=request.top if is_for_order else None,
        )

    if request.is_collaborative:
        found, scores = beside(
            index, best_personas, partial(collaborative.scores, index, users, item_ids)
        )
    else:
        found, scores = best_personas(), [{}] * len(users)
    matches = dict(zip(queried, found, strict=True))
    orders = [
        order_candidates(user, candidates, matches.get(position), request, scores[position])
        for position, (user, candidates) in enumerate(zip(users, lists, strict=True))
    ]
    known = [
        rows for one, rows in zip(queried, directions, strict=True) if users[one].vector is not None
    ]
    return orders, known


def order_candidates(
    user: KnownUser,
    candidates: list[Scored],
    matches: list[PersonaMatch] | None,
    request: Request,
    together: Mapping[str, float] = {},
) -> Order:
    """Order one user's candidates by the scores that the request asks for.

    matches: None if the index was not queried. With a filter, only candidates that match it stay.
    together: collaborative scores, empty if that part is left out.
    """
    generator: dict[str, tuple[int, float | None]] = {}
    if request.has_generator:
        generator = {item_id: (rank, score) for rank, (item_id, score) in enumerate(candidates, 1)}
    if request.filter is not None and matches is not None:
        matches = [one for one in matches if one.score is not None]
        kept = {one.item_id for one in matches}
        candidates = [one for one in candidates if one[0] in kept]
    interests = request.options.interests
    order = Order(user, generator, [], collaborative=together, interests=interests)
    if matches is None or user.vector is None:
        order.matches = [PersonaMatch(item_id) for item_id, _ in candidates]
    else:
        order.matches = matches
    if not order.is_personalized:
        return order
    scores = {one.item_id: one.score for one in order.matches}
    if request.is_standard:
        _put_in_order(order, candidates, scores if user.vector is not None else None, request)
    elif request.is_fused:
        order.scores = scores = fused_scores(scores, candidates, request.options)
        # Items without either score keep the generator's order: Python's sort is stable.
        order.matches = sorted(
            order.matches, key=lambda one: best_first(scores[one.item_id], one.item_id)
        )
    else:
        order.scores = scores
    return order


def _put_in_order(
    order: Order,
    candidates: list[Scored],
    personas: Mapping[str, float | None] | None,
    request: Request,
) -> None:
    """Order by the one score; where no part has a weight, the candidates' order is kept."""
    match_of = {one.item_id: one for one in order.matches}
    columns = standard_columns(
        candidates, personas, order.collaborative, has_generator=request.has_generator
    )
    found = combined(columns, request.weights)
    places = range(len(candidates)) if found is None else found.order().tolist()
    order.matches = [match_of[candidates[place][0]] for place in places]
    if found is not None:
        item_ids = [item_id for item_id, _ in candidates]
        order.scores = dict(zip(item_ids, found.scores.tolist(), strict=True))
        order.parts = dict(zip(item_ids, found.parts(), strict=True))


def explain_orders(
    index: PersonaIndex,
    orders: Sequence[Order],
    directions: Sequence[Floats],
    shown: int | None,
    state: int | None = None,
) -> bool:
    """Read the texts of the first `shown` matches of each order, all in one request.

    Also reads which of the user's own items they were chosen with. directions: (k, dim) of each
    order with a vector. state: of the index before the scores were read, if it can tell whether
    something was written since. Returns whether scores and texts fit.
    """
    personal = [order for order in orders if order.user.vector is not None]
    with_vectors = state is None or any(isinstance(o.user.vector, UserVector) for o in personal)

    def texts() -> list[PersonaMatch]:
        return index.explain(
            [match for order in personal for match in order.matches[:shown]],
            with_vectors=with_vectors,
        )

    together = [order for order in orders if order.collaborative]
    if together:
        found, _ = beside(index, texts, partial(_add_own_items, index, together, shown))
    else:
        found = texts()
    explained = iter(found)
    fit = with_vectors
    for order, rows in zip(personal, directions, strict=True):
        first = list(islice(explained, len(order.matches[:shown])))
        order.matches[: len(first)] = first
        fit = fit and are_whole(first, rows)
    return fit or (state is not None and index.engine.state() == state)


def _add_own_items(index: PersonaIndex, orders: Sequence[Order], shown: int | None) -> None:
    for order in orders:
        first = (one.item_id for one in order.matches[:shown])
        spoken_for = [one for one in first if one in order.collaborative]
        order.chosen_with = collaborative.own_items(index, order.user, spoken_for)
