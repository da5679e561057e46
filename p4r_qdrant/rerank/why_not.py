"""Why an item is not among the first, and the smallest change of the history that lifts it there.

A change leaves one of the user's own items out, or adds a known one as the newest. The scores of
all changed histories are predicted from the shares of the user's items. A change that is reported
has then been applied: the candidates were ranked again as for any other user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from math import isnan

import numpy as np

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.matching import are_whole
from p4r_qdrant.live.pair import IndexAndEncoder
from p4r_qdrant.records import Change, Parts, PersonaMatch, RankedItem, WhyNot
from p4r_qdrant.rerank import collaborative
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.rerank.changes import Changed, Past, added, left_out
from p4r_qdrant.rerank.fusion import best_first
from p4r_qdrant.rerank.ordering import Order, Request, order_candidates
from p4r_qdrant.rerank.recommending import considered
from p4r_qdrant.rerank.standard import ROUNDING, Values, standard_columns, standardised
from p4r_qdrant.rerank.users import KnownUser

CLOSE = 1e-6
"""Difference of scores below which a prediction does not tell which is larger."""


def why_not(
    pair: IndexAndEncoder,
    past: Past,
    item_id: str,
    candidates: list[Scored],
    request: Request,
    additions: int,
) -> WhyNot:
    """What keeps an item of the candidates out of the first `request.top`.

    additions: how many known items are tried if leaving one out does not suffice. Raises InputError
    if the item is no candidate.
    """
    top = request.top or 1
    if item_id not in {one for one, _ in candidates}:
        raise InputError(f"item {item_id!r} is not among the {len(candidates)} candidates")
    request = dataclasses.replace(request, top=top, explain=0)
    order = _ordered(pair, past.user, candidates, request)
    places = {match.item_id: place for place, match in enumerate(order.matches)}
    place, last = places[item_id], min(top, len(candidates)) - 1
    shown = _explained(pair, order, sorted({place, last}), request)
    found = WhyNot(shown[place], top)
    if place <= last:
        reason = f"it is number {place + 1} already, among the first {top}"
        return dataclasses.replace(found, reason=reason)
    found = dataclasses.replace(
        found, threshold=shown[last], differences=_differences(shown[place], shown[last])
    )
    if not order.is_personalized:
        reason = "nothing is known of the user, so the candidates keep their order"
        return dataclasses.replace(found, reason=reason)
    changes = left_out(past)
    tried = len(changes)
    hopeful = _hopeful(pair, past, changes, item_id, candidates, request)
    change = _first_that_lifts(pair, hopeful, item_id, candidates, request)
    if change is None and additions:
        known = added(pair, past, item_id, additions, with_columns=request.is_collaborative)
        tried += len(known)
        change = _first_that_lifts(pair, iter(known), item_id, candidates, request)
    reason = "" if change else _none_lifts(past, tried)
    return dataclasses.replace(found, change=change, tried=tried, reason=reason)


def catalogue_candidates(
    pair: IndexAndEncoder, user: KnownUser, item_id: str, request: Request
) -> list[Scored]:
    """The items that a recommendation considers, and `item_id` if it is not among them.

    Raises InputError if the index lacks the item, or if the user has it already.
    """
    if not pair.index.get(item_id):
        raise InputError(f"the index has no item {item_id!r}")
    if item_id in user.items:
        raise InputError(f"the user has item {item_id!r} already, so it is not recommended")
    found = considered(pair, user, user.items, request)
    return [(one, None) for one in dict.fromkeys([*found, item_id])]


def _none_lifts(past: Past, tried: int) -> str:
    if not tried and past.is_plain:
        return "the user is given as a plain vector, so no history can be changed"
    if not tried:
        return "the user has no item that can be left out"
    return f"no single change lifts it: {tried} were tried"


def _ordered(
    pair: IndexAndEncoder, user: KnownUser, candidates: list[Scored], request: Request
) -> Order:
    """The order of the candidates of one user, without texts."""
    item_ids = [item_id for item_id, _ in candidates]
    matches = None
    if user.vector is not None:
        directions = pair.directions(user.vector, request.options)
        [matches] = pair.index.best_personas([directions], [item_ids], explain=0)
    together: Mapping[str, float] = {}
    if request.is_collaborative:
        [together] = collaborative.scores(pair.index, [user], [item_ids])
    return order_candidates(user, candidates, matches, request, together)


def _explained(
    pair: IndexAndEncoder, order: Order, places: Sequence[int], request: Request
) -> dict[int, RankedItem]:
    """The items at some places of an order, with their personas and reasons."""
    matches = [order.matches[one] for one in places]
    if order.user.vector is not None:
        directions = pair.directions(order.user.vector, request.options)
        shown = pair.index.explain(matches, with_vectors=True)
        if not are_whole(shown, directions):  # an item was replaced since it was scored
            item_ids = [[one.item_id for one in matches]]
            [fresh] = pair.index.best_personas([directions], item_ids, with_vectors=True)
            by_id = {one.item_id: one for one in fresh}
            shown = [by_id[one.item_id] for one in matches]
        matches = shown
    if order.collaborative:
        item_ids_shown = [one.item_id for one in matches]
        order.chosen_with = collaborative.own_items(pair.index, order.user, item_ids_shown)
    return {
        place: order.item(place + 1, match) for place, match in zip(places, matches, strict=True)
    }


def _differences(item: RankedItem, threshold: RankedItem) -> Parts:
    if item.parts is None or threshold.parts is None:
        if item.score is None or threshold.score is None:
            return Parts()
        return Parts(personas=item.score - threshold.score)

    def minus(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one - other

    own, other = item.parts, threshold.parts
    return Parts(
        minus(own.personas, other.personas),
        minus(own.collaborative, other.collaborative),
        minus(own.generator, other.generator),
    )


def _first_that_lifts(
    pair: IndexAndEncoder,
    changes: Iterator[Changed],
    item_id: str,
    candidates: list[Scored],
    request: Request,
) -> Change | None:
    """The first change that lifts the item, found by applying one after another."""
    for one in changes:
        first = _ordered(pair, one.user, candidates, request).matches[: request.top]
        for rank, match in enumerate(first, start=1):
            if match.item_id == item_id:
                return Change(one.item_id, one.title, one.adds, rank)
    return None


def _hopeful(
    pair: IndexAndEncoder,
    past: Past,
    changes: Sequence[Changed],
    item_id: str,
    candidates: list[Scored],
    request: Request,
) -> Iterator[Changed]:
    """The changes that may lift the item, in their order: no change that does is missing."""
    if not changes:
        return
    item_ids = [one for one, _ in candidates]
    if request.options.fusion in ("weighted", "rrf"):
        # Only what changes the vector changes the order.
        personas = _persona_rows(pair, changes, item_ids, request)
        for one, row in zip(changes, personas, strict=True):
            if one.user.vector is None or _is_lifted(one.user, row, item_id, candidates, request):
                yield one
        return
    if request.is_standard and not (request.weights.personas or request.is_collaborative):
        return  # only the generator has a weight
    target = item_ids.index(item_id)
    scores = _predicted(pair, past, changes, candidates, request)
    ahead = (scores > scores[:, [target]] + CLOSE).sum(axis=1)
    had_vector = past.user.vector is not None
    for one, others in zip(changes, ahead.tolist(), strict=True):
        # Where a part gets lost, or all are, the prediction does not hold.
        lost = one.user.vector is None and (had_vector or not one.user.items)
        if others < (request.top or 1) or lost:
            yield one


def _is_lifted(
    user: KnownUser, scores: Values, item_id: str, candidates: list[Scored], request: Request
) -> bool:
    """Whether an item is among the first if these are the persona scores of the candidates."""
    scored = zip((one for one, _ in candidates), scores.tolist(), strict=True)
    matches = [PersonaMatch(one, None if isnan(score) else score) for one, score in scored]
    matches.sort(key=lambda one: best_first(one.score, one.item_id))
    order = order_candidates(user, candidates, matches, request)
    return item_id in {match.item_id for match in order.matches[: request.top]}


def _persona_rows(
    pair: IndexAndEncoder, changes: Sequence[Changed], item_ids: list[str], request: Request
) -> Values:
    """The persona score of each candidate after each change: (n_changes, n), NaN where none is.

    Equal vectors are scored once.
    """
    vectors = {id(one.user.vector): one.user.vector for one in changes}
    distinct = {key: vector for key, vector in vectors.items() if vector is not None}
    directions = [pair.directions(one, request.options) for one in distinct.values()]
    place = {key: number for number, key in enumerate(distinct)}
    found = np.full((len(distinct) + 1, len(item_ids)), np.nan)
    found[:-1] = pair.index.best_scores(directions, item_ids)
    rows: Values = found[[place.get(id(one.user.vector), len(distinct)) for one in changes]]
    return rows


def _predicted(
    pair: IndexAndEncoder,
    past: Past,
    changes: Sequence[Changed],
    candidates: list[Scored],
    request: Request,
) -> Values:
    """The score of each candidate after each change, up to a factor: (n_changes, n)."""
    weights, item_ids = request.weights, [one for one, _ in candidates]
    if not request.is_standard:
        rows = _persona_rows(pair, changes, item_ids, request)
        return np.where(np.isnan(rows), -np.inf, rows)
    scores = np.zeros((len(changes), len(candidates)))
    if weights.personas:
        rows = _persona_rows(pair, changes, item_ids, request)
        scores += weights.personas * standardised(rows, ROUNDING)
    if request.is_collaborative:
        rows = _collaborative_rows(pair, past, changes, item_ids)
        scores += weights.collaborative * standardised(rows, ROUNDING)
    if weights.generator and request.has_generator:
        generator = standard_columns(candidates, None, None)[2]
        assert generator is not None  # noqa: S101
        scores += weights.generator * generator
    return scores


def _collaborative_rows(
    pair: IndexAndEncoder, past: Past, changes: Sequence[Changed], item_ids: Sequence[str]
) -> Values:
    """c(u, i) after each change, from the shares of the user's items: (n_changes, n).

    The items that are older than the one that is left out move up: their weights are divided by the
    decay g.
    """
    [weights] = collaborative.history_weights(pair.index, [past.user])
    place = {own: number for number, own in enumerate(weights)}
    shares = np.zeros((len(weights) + 1, len(item_ids)))
    shares[:-1] = pair.index.collaborative_products(weights, item_ids)
    own_weights = list(weights.values())
    rises = own_weights[0] / own_weights[1] if len(own_weights) > 1 and own_weights[1] else 1.0
    older = np.cumsum(shares[::-1], axis=0)[::-1]
    rows = np.empty((len(changes), len(item_ids)))
    for row, one in zip(rows, changes, strict=True):
        at = place.get(one.item_id)
        row[:] = older[0]
        if at is not None:
            row += (rises - 1) * older[at + 1] - shares[at]
    return rows
