"""The candidates of validation users with the parts of their scores, as the reranker sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.generators.base import Fitted, matrix
from indexer.evaluation.interactions import Indexes, Interactions
from indexer.tuning.weights import Case
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.records import CandidateList
from p4r_qdrant.rerank.recommending import BREADTH
from p4r_qdrant.rerank.standard import Columns, standard_columns
from p4r_qdrant.settings import RerankSettings

USERS_AT_ONCE = 256

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Persona and collaborative scores of whole catalogues.

    training: with an item for each of the personas. model: None if there is no collaborative part.
    options: the form of the persona score: `interests` and `prior`. typical: the mean user, (dim,),
    for the prior.
    """

    training: Interactions
    personas: PersonaVectors
    model: Fitted | None
    options: RerankSettings = field(default_factory=RerankSettings)
    typical: Floats | None = None

    def of(
        self, users: Sequence[str], vectors: Sequence[UserVector | None]
    ) -> Iterator[tuple[Values | None, Values | None]]:
        """For each user both scores of all items, (n_items,); None for a part that is missing.

        NaN is the persona score of an item without personas.
        """
        rows = {user: row for row, user in enumerate(self.training.users)}
        for start in range(0, len(users), USERS_AT_ONCE):
            block = slice(start, start + USERS_AT_ONCE)
            near = iter(self._near([one for one in vectors[block] if one is not None]))
            known = [rows[one] for one in users[block] if one in rows]
            together = iter(self._together(np.array(known, dtype=np.int64)))
            for user, vector in zip(users[block], vectors[block], strict=True):
                yield (
                    None if vector is None else next(near),
                    None if user not in rows else next(together),
                )

    def _near(self, vectors: Sequence[UserVector]) -> Values:
        """The persona scores of all items: (n, n_items)."""
        scores = np.full((len(vectors), len(self.training.items)), np.nan)
        if vectors:
            directions = [self._directions(one) for one in vectors]
            near = np.concatenate(directions) @ self.personas.vectors.T
            starts = np.cumsum([0, *(len(rows) for rows in directions[:-1])])
            best = np.maximum.reduceat(near, starts, axis=0)
            best = np.maximum.reduceat(best, self.personas.starts[:-1], axis=1)
            scores[:, np.searchsorted(self.training.items, self.personas.items)] = best
        return scores

    def _directions(self, vector: UserVector) -> Floats:
        """The query vectors of a user, as `IndexAndEncoder.directions` makes them."""
        rows = vector.directions(self.options.interests)
        if self.options.prior and self.typical is not None:
            rows = rows - np.float32(self.options.prior) * self.typical
        return rows

    def _together(self, rows: Indexes) -> Sequence[Values | None]:
        if self.model is None or not len(rows):
            return [None] * len(rows)
        return list(np.asarray(self.model.scores(rows), dtype=np.float64))


def mean_user(vectors: Iterable[UserVector | None]) -> Floats | None:
    """The mean h_u of known users, (dim,), for the persona prior; None if none is known."""
    known = [one.vector for one in vectors if one is not None]
    return np.mean(known, axis=0, dtype=np.float32) if known else None


def catalogue_cases(
    scores: Scores,
    users: Sequence[str],
    vectors: Sequence[UserVector | None],
    wanted: Mapping[str, str],
) -> Iterator[Case]:
    """What `PersonaReranker.recommend` orders: the best items of each part that the user has not.

    wanted: user -> validation item.
    """
    places = {item: place for place, item in enumerate(scores.training.items)}
    for user, (chosen, columns) in zip(users, proposals(scores, users, vectors), strict=True):
        target = places.get(wanted[user])
        yield Case(columns, chosen.index(target) if target in chosen else None)


def proposals(
    scores: Scores, users: Sequence[str], vectors: Sequence[UserVector | None]
) -> Iterator[tuple[list[int], Columns]]:
    """The positions of the best items of each part that the user has not, and the parts of their
    scores: first those by personas, best first, then the others by id.
    """
    items = scores.training.items
    rows = {user: row for row, user in enumerate(scores.training.users)}
    had = matrix(scores.training)
    for user, (near, together) in zip(users, scores.of(users, vectors), strict=True):
        row = rows.get(user)
        # A slice of the row itself: indexing a sparse matrix takes thirty times as long.
        own = had.indices[slice(0, 0) if row is None else slice(*had.indptr[row : row + 2])]
        by_personas, by_items = _best(near, own, least=-np.inf), _best(together, own, least=0.0)
        chosen = [*dict.fromkeys([*by_personas, *sorted(by_items)])]
        candidates = [(items[one], None) for one in chosen]
        near_by_id, by_id = _by_id(near, chosen, items), _by_id(together, chosen, items)
        yield chosen, standard_columns(candidates, near_by_id, by_id, has_generator=False)


def list_cases(
    scores: Scores,
    lists: Sequence[CandidateList],
    vectors: Sequence[UserVector | None],
    wanted: Mapping[str, str],
) -> Iterator[Case]:
    """What `PersonaReranker.rerank` orders: the lists of a generator."""
    for one, (item_ids, columns) in zip(lists, listed(scores, lists, vectors), strict=True):
        target = wanted[one.user_id]
        yield Case(columns, item_ids.index(target) if target in item_ids else None)


def listed(
    scores: Scores, lists: Sequence[CandidateList], vectors: Sequence[UserVector | None]
) -> Iterator[tuple[list[str], Columns]]:
    """The items of each list of a generator, and the parts of their scores."""
    places = {item: place for place, item in enumerate(scores.training.items)}
    found = scores.of([one.user_id for one in lists], vectors)
    for one, (near, together) in zip(lists, found, strict=True):
        candidates = [*{each.item_id: each.score for each in one.results}.items()]
        item_ids = [item_id for item_id, _ in candidates]
        known = [places[item_id] for item_id in item_ids if item_id in places]
        yield (
            item_ids,
            standard_columns(
                candidates,
                _by_id(near, known, scores.training.items),
                _by_id(together, known, scores.training.items),
            ),
        )


def _best(values: Values | None, own: Indexes, least: float) -> list[int]:
    """The positions of the best items above `least` that are not the user's own, best first."""
    if values is None:
        return []
    masked = np.where(np.isnan(values), -np.inf, values)
    masked[own] = -np.inf
    count = min(BREADTH, len(masked))
    best = np.argsort(-masked, kind="stable")[:count]
    return [int(one) for one in best if masked[one] > least]


def _by_id(
    values: Values | None, chosen: Sequence[int], items: Sequence[str]
) -> dict[str, float] | None:
    """Scores by item id; items without one, or with 0, are missing as in an index."""
    if values is None:
        return None
    known = ((items[one], float(values[one])) for one in chosen)
    return {item_id: value for item_id, value in known if value and not np.isnan(value)}
