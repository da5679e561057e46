"""Choose the fit of the collaborative part by whole-catalogue NDCG@10 on validation items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.artifacts.tuned import TunedFit
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.collaborative.weights import MOST_ITEMS
from indexer.evaluation.catalogue import Catalogue
from indexer.evaluation.generators.base import DECAYS, Fitted
from indexer.evaluation.generators.personas_ease import L2, SHARES, PersonasEase
from indexer.evaluation.interactions import Interactions
from indexer.metrics import ndcg
from indexer.progress import SILENT, Progress

SMALL = 3_000
"""Items up to which the whole grid is tried."""


@dataclass(frozen=True)
class ChosenFit:
    """The best fit, and its model. valid: NDCG@10 of each setting, best first."""

    settings: TunedFit
    model: Fitted
    tried: Sequence[Mapping[str, Any]]


def choose_fit(
    training: Interactions,
    personas: PersonaVectors,
    wanted: Mapping[str, str],
    progress: Progress = SILENT,
) -> ChosenFit:
    """Try shares, regularizations and decays; fewer of them in a large catalogue.

    training: with an item for each of the personas. wanted: user -> validation item; the users have
    training interactions.
    """
    places = {user: place for place, user in enumerate(training.users)}
    rows = np.array([places[user] for user in wanted])
    catalogue = Catalogue(training)
    shares, l2 = grid(len(training.items))
    progress.start("fitting the collaborative part", len(shares) * len(l2) * len(DECAYS))
    tried = []
    for fitted in PersonasEase(personas, shares, l2).fitted(training, 0):
        value = ndcg(catalogue.ranks(fitted, rows, [*wanted.values()]))
        tried.append({**fitted.settings, "valid": value})
        progress.advance()
    tried.sort(key=lambda one: -one["valid"])  # of equals the first one tried
    best = tried[0]
    # Fitted again, because two models may not fit into memory.
    again = PersonasEase(personas, (best["share"],), (best["l2"],)).fitted(training, 0)
    model = next(one for one in again if one.settings["decay"] == best["decay"])
    chosen = TunedFit(**{name: best[name] for name in TunedFit.model_fields})
    return ChosenFit(chosen, model, tried)


def grid(n_items: int) -> tuple[Sequence[float], Sequence[float]]:
    """Shares and regularizations to try in a catalogue of this size."""
    if n_items <= SMALL:
        return SHARES, L2
    if n_items <= MOST_ITEMS:
        return (0.0, 1.0, 3.0), (100.0, 300.0, 1000.0)
    return (1.0,), (100.0, 1000.0)
