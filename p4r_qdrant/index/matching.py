"""Rank items by their best persona for a user, and add the personas' texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, repeat

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.engine import BestPoints, Engine, StoredPoints
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.payload import stored_persona
from p4r_qdrant.index.query import Query, unit_directions
from p4r_qdrant.records import PersonaMatch

EXPLAINED_AT_ONCE = 1000
"""The number of points whose texts (and vectors) one request reads."""

ATTEMPTS = 5
"""How often one call scores, at most, if a persona is replaced before its texts are read."""

SAME = 1e-3
"""The largest difference between a score and that of the vector beside the texts, for users of
length 1."""


def attempts(engine: Engine) -> Iterator[AbstractContextManager[object]]:
    """A context for each attempt to read scores and texts of one writing of each item.

    In the last one no item is replaced, where the engine can keep writers out.
    """
    yield from repeat(nullcontext(), ATTEMPTS - 1)
    yield engine.replacing()


def best_personas(engine: Engine, query: Query) -> list[list[PersonaMatch]]:
    """Score, rank and explain; repeat for users whose persona was replaced meanwhile."""
    rankings: dict[int, list[PersonaMatch]] = {}
    users, asked, state = [*range(len(query.users))], query, engine.state()
    for attempt in attempts(engine):
        with attempt:
            found, changed = _explained_rankings(engine, asked, state)
        rankings |= zip(users, found, strict=True)
        if not changed:
            break
        # After a write elsewhere in the index, vectors tell which users it concerns.
        users, state = [users[one] for one in changed], None
        asked = query.of_users(users)
    return [*rankings.values()]


def _explained_rankings(
    engine: Engine, query: Query, state: int | None
) -> tuple[list[list[PersonaMatch]], list[int]]:
    """The ranking of each user, and the users whose scores and texts may not belong together.

    state: of the index before; None if vectors have to tell whether something was written since.
    """
    found = _best_of_directions(engine, query)
    rankings = [
        rank(best, item_ids)[: query.top]
        for best, item_ids in zip(found, query.candidates, strict=True)
    ]
    if query.explain == 0:
        return rankings, []
    firsts = [ranking[: query.explain] for ranking in rankings]
    with_vectors = query.with_vectors or state is None
    matches = [match for first in firsts for match in first]
    explained = iter(explain(engine, matches, with_vectors))
    unwritten = state is not None and engine.state() == state
    changed = []
    for user, first in enumerate(firsts):
        shown = list(islice(explained, len(first)))
        rankings[user][: len(first)] = shown if query.with_vectors else without_vectors(shown)
        if not unwritten and not (with_vectors and are_whole(shown, query.users[user])):
            changed.append(user)
    return rankings, changed


def best_scores(
    engine: Engine, users: Sequence[Floats], item_ids: list[str]
) -> npt.NDArray[np.float64]:
    """See `PersonaIndex.best_scores`. users: directions (k, dim) of any length."""
    if not users or not item_ids:
        return np.zeros((len(users), len(item_ids)))
    unit, lengths = unit_directions(np.concatenate(users))
    scores = lengths[:, None] * engine.best_scores(unit, item_ids)
    first = np.cumsum([0, *map(len, users[:-1])])
    best: npt.NDArray[np.float64] = np.maximum.reduceat(scores, first, axis=0)
    return best


def nearest_items(
    engine: Engine,
    directions: Floats,
    limit: int,
    conditions: list[Condition],
    skipped: Collection[str] = (),
) -> list[PersonaMatch]:
    """The `limit` items of the whole catalogue that are nearest to a user, texts and vectors too.

    directions: (k, dim) float32, of any length; the best one counts. skipped: a few item ids that
    are found and left out, which takes half as long as a condition.
    """
    for attempt in attempts(engine):
        with attempt:
            ranking = nearest_scores(engine, directions, limit, conditions, skipped)
            shown = explain(engine, ranking, with_vectors=True)
        if are_whole(shown, directions):
            break
    return shown


def nearest_scores(
    engine: Engine,
    directions: Floats,
    limit: int,
    conditions: list[Condition],
    skipped: Collection[str] = (),
) -> list[PersonaMatch]:
    """`nearest_items` without texts and vectors."""
    best: BestPoints = {}
    # An item that is among the best overall is among the best of its best direction.
    for vector, length in zip(*unit_directions(directions), strict=True):
        near = _nearest(engine, vector, limit, conditions, skipped)
        for item_id, (score, point) in near.items():
            _keep_better(best, item_id, float(length) * score, point)
    return rank(best, list(best))[:limit]


def explain(
    engine: Engine, matches: Sequence[PersonaMatch], with_vectors: bool
) -> list[PersonaMatch]:
    """The same matches with their personas' texts (and vectors).

    A persona that was replaced in between comes back as it is now. A match whose persona was
    deleted in between comes back without one.
    """
    wanted = list({match.point_id for match in matches if match.point_id is not None})
    found: StoredPoints = {}
    for some in batches(wanted, EXPLAINED_AT_ONCE):
        found |= engine.points(some, with_vectors)
    return [
        PersonaMatch(
            match.item_id,
            match.score,
            match.point_id,
            stored_persona(found[match.point_id][0]),
            found[match.point_id][1],
        )
        if match.point_id in found
        else match
        for match in matches
    ]


def are_whole(explained: Sequence[PersonaMatch], directions: Floats, same: float = SAME) -> bool:
    """Whether each score belongs to the persona beside it; False if one was replaced meanwhile.

    explained: matches with vectors. directions: the user's, (k, dim), of any length. same: largest
    difference that rounding explains, for directions of length 1.
    """
    tolerance = same * max(1.0, float(np.linalg.norm(directions, axis=1).max(initial=0)))
    return all(
        match.score is None
        or (
            match.vector is not None
            and abs(float((directions @ match.vector).max()) - match.score) <= tolerance
        )
        for match in explained
    )


def without_vectors(matches: Sequence[PersonaMatch]) -> list[PersonaMatch]:
    """The same matches without the personas' vectors."""
    return [match._replace(vector=None) for match in matches]


def rank(best: BestPoints, item_ids: Sequence[str]) -> list[PersonaMatch]:
    """All candidates as matches: best score first, ties by item id, then those without a score."""
    scored = sorted((-score, item_id, point) for item_id, (score, point) in best.items())
    matches = [PersonaMatch(item_id, -score, point) for score, item_id, point in scored]
    if len(matches) < len(item_ids):
        matches += [PersonaMatch(item_id) for item_id in item_ids if item_id not in best]
    return matches


def _best_of_directions(engine: Engine, query: Query) -> list[BestPoints]:
    """The best points of users with one or more directions (k, dim) of any length."""
    if not query.users:
        return []
    unit, lengths = unit_directions(np.concatenate(query.users))
    owners = [user for user, rows in enumerate(query.users) for _ in rows]
    # An item that is among the best overall is among the best of its best direction; but all
    # are equal in one without a length.
    top = query.top if lengths.all() else None
    candidates = [query.candidates[user] for user in owners]
    found = engine.best_points(unit, candidates, query.conditions, top)
    if len(owners) == len(query.users) and (lengths == 1).all():
        return found
    merged: list[BestPoints] = [{} for _ in query.users]
    for user, length, scores in zip(owners, lengths.tolist(), found, strict=True):
        best = merged[user]
        for item_id, (score, point) in scores.items():
            _keep_better(best, item_id, length * score, point)
    return merged


def _nearest(
    engine: Engine,
    vector: Floats,
    limit: int,
    conditions: list[Condition],
    skipped: Collection[str],
) -> BestPoints:
    """The best points of the `limit` nearest items or more, if there are enough items."""
    best: BestPoints = {}
    # An item may have several personas among the nearest.
    requested = 2 * limit + len(skipped)
    while True:
        points = engine.nearest_points(vector, requested, conditions)
        for score, point, item_id in points:
            if item_id not in skipped:
                best.setdefault(item_id, (score, point))
        if len(best) >= limit or len(points) < requested:
            return best
        requested *= 4


def _keep_better(best: BestPoints, item_id: str, score: float, point: str) -> None:
    """Keep the better point of an item; with equal scores the point at the lower position."""
    held = best.get(item_id)
    if held is None or score > held[0] or (score == held[0] and point < held[1]):
        best[item_id] = (score, point)
