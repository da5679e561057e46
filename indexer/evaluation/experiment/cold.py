"""How well are items without interactions found?

All training interactions of a random share of the items with personas are removed. Users whose
held-out item is among these items show how often it is found in the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from indexer.evaluation.catalogue import Catalogue
from indexer.evaluation.evaluate import estimates
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.selection import Choice
from indexer.evaluation.generators.base import Fitted, Floats
from indexer.evaluation.generators.personas_ease import PersonasEase
from indexer.evaluation.interactions import Indexes, Interactions
from indexer.evaluation.truth import On
from indexer.metrics import ndcg
from p4r_qdrant.records import Interaction
from p4r_qdrant.texts import interaction_text

INTERACTIONS_ALONE = "any generator of interactions alone"
PERSONAS = "personas alone"
HYPOTHETICAL = "personas as hypothetical users"
BOTH = "both"


@dataclass(frozen=True)
class _Wanted:
    """Users whose held-out item is hidden: their rows, and the items."""

    rows: Indexes
    items: list[str]


def cold_table(encoded: Encoded, choice: Choice, context: Context) -> list[dict[str, Any]]:
    """HR@10 and NDCG@10 on the test items that are hidden, for each way of finding them.

    Settings are chosen on the validation items that are hidden. Empty if there are no hidden
    validation or test items.
    """
    data, config = context.data, context.config
    personas = encoded.material.personas
    hidden = _hidden(encoded, context)
    training = data.training.without_items(hidden).with_items(personas.items)
    valid, test = (_wanted(on, hidden, training, context) for on in ("valid", "test"))
    if not valid.items or not test.items:
        return []
    catalogue = Catalogue(training)
    profiles = _profiles(encoded, choice.length, training.users, hidden, context)
    alone = Fitted({}, _PersonaScores(profiles, personas, choice.plain.decay, training).of)

    def best(fitted: Iterator[Fitted]) -> Fitted:
        return max(fitted, key=lambda one: ndcg(catalogue.ranks(one, valid.rows, valid.items)))

    hypothetical = best(PersonasEase(personas).fitted(training, config.seeds[0]))
    both = best(_fused(alone, hypothetical, config.weights))
    rows = [_row(INTERACTIONS_ALONE, {}, np.zeros(len(test.items), dtype=np.int64))]
    for name, fitted in ((PERSONAS, alone), (HYPOTHETICAL, hypothetical), (BOTH, both)):
        ranks = catalogue.ranks(fitted, test.rows, test.items)
        rows.append(_row(name, fitted.settings, ranks))
    return [row | {"hidden_items": len(hidden), "users": len(test.items)} for row in rows]


def encode_histories(encoded: Encoded, context: Context) -> None:
    """Encode what `cold_table` asks for: without the hidden items, histories reach further back.

    Done before the leak checks, which read the encoded texts.
    """
    hidden, users = _hidden(encoded, context), context.data.training.users
    _profiles(encoded, max(context.config.lengths), users, hidden, context)


def _hidden(encoded: Encoded, context: Context) -> frozenset[str]:
    items = sorted({*encoded.material.personas.items} & {*context.data.training.items})
    order = np.random.default_rng(context.config.seeds[0]).permutation(len(items))
    return frozenset(items[place] for place in order[: round(context.config.cold * len(items))])


def _wanted(on: On, hidden: frozenset[str], training: Interactions, context: Context) -> _Wanted:
    rows = {user: row for row, user in enumerate(training.users)}
    found = [
        (rows[user], item)
        for user, item in zip(context.data.users, context.data.wanted(on), strict=True)
        if item in hidden and user in rows
    ]
    return _Wanted(
        np.array([row for row, _ in found], dtype=np.int64), [item for _, item in found if item]
    )


def _profiles(
    encoded: Encoded, length: int, users: Sequence[str], hidden: frozenset[str], context: Context
) -> Profiles:
    """The users' histories without the hidden interactions."""

    def history_of(user: str) -> list[Interaction]:
        return [one for one in context.histories.get(user) if one.item_id not in hidden]

    return Profiles.of(history_of, users, encoded.encoder, interaction_text, length)


class _PersonaScores:
    """Eq. 10 for all items; -inf for items without personas and users without a history."""

    def __init__(
        self, profiles: Profiles, personas: Personas, decay: float, training: Interactions
    ) -> None:
        self._means = profiles.means(decay)
        self._personas = personas
        self._columns = np.searchsorted(training.items, personas.items)
        self._n_items = len(training.items)

    def of(self, users: Indexes) -> Floats:
        near = self._means[users] @ self._personas.vectors.T
        scores = np.full((len(users), self._n_items), -np.inf)
        scores[:, self._columns] = np.maximum.reduceat(near, self._personas.starts[:-1], axis=1)
        return np.where(np.isnan(scores), -np.inf, scores)


def _fused(alone: Fitted, hypothetical: Fitted, weights: Sequence[float]) -> Iterator[Fitted]:
    """Both scores, standardised over the catalogue; `weight` is the share of Eq. 10."""
    for weight in weights:

        def scores(users: Indexes, weight: float = weight) -> Floats:
            first, second = (_standardised(one.scores(users)) for one in (alone, hypothetical))
            return weight * first + (1 - weight) * second

        yield Fitted({**hypothetical.settings, "weight": weight}, scores)


def _standardised(scores: Floats) -> Floats:
    """Each row with mean 0 and standard deviation 1; 0 for what has no score."""
    known = np.where(np.isfinite(scores), scores, np.nan)
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(known, axis=1, keepdims=True)
        spread = np.nanstd(known, axis=1, keepdims=True)
    scaled: Floats = (known - mean) / np.where(spread > 0, spread, 1)
    return np.where(np.isnan(scaled), 0.0, scaled)


def _row(name: str, settings: Any, ranks: Indexes) -> dict[str, Any]:
    found = estimates(ranks)
    metrics = {metric: asdict(found[metric]) for metric in ("HR@10", "NDCG@10")}
    return {"line": name, "settings": dict(settings), "metrics": metrics}
