"""What a published version records of the score: weights of `p4r tune`, and the popular items."""

from __future__ import annotations

import json

import numpy as np

from indexer.artifacts.names import TUNED
from indexer.artifacts.tuned import Tuned
from indexer.indexing.collaborative import Fitting
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.settings import CollaborativeSettings

MOST_POPULAR = 100
"""Items that are recorded for users of whom nothing is known."""


def with_tuned(settings: CollaborativeSettings, tuned: Tuned | None) -> CollaborativeSettings:
    """The settings, with the tuned values in place of those that are not set."""
    if tuned is None or tuned.collaborative is None:
        return settings
    chosen = tuned.collaborative.model_dump()
    unset = {name: chosen[name] for name in chosen.keys() - settings.model_fields_set}
    return settings.model_copy(update=unset)


def note_scoring(index: PersonaIndex, tuned: Tuned | None, fitting: Fitting | None) -> str:
    """Record the weights that were chosen for the encoder of the index, and the popular items.

    Returns: what was done about the weights, as a part of a sentence.
    """
    fits = tuned is not None and tuned.fingerprint == index.metadata.fingerprint
    scoring = tuned.scoring.model_dump_json(exclude_none=True) if tuned and fits else ""
    popular = json.dumps(popular_items(fitting), ensure_ascii=False) if fitting else ""
    metadata = index.metadata
    if (scoring, popular) != (metadata.scoring, metadata.popular):
        index.record(scoring=scoring, popular=popular)
    if tuned is None:
        return f"none, there is no {TUNED}: personas alone make the score (p4r tune chooses some)"
    if not fits:
        return f"none, {TUNED} was made for another encoder: run p4r tune again"
    return tuned.scoring.described()


def popular_items(fitting: Fitting) -> list[str]:
    """The items of the catalogue with the most users, most first; of equals the smaller id."""
    own = fitting.interactions
    counts = own.item_counts()
    order = np.argsort(-counts, kind="stable").tolist()  # ids are in alphabetical order
    known = (own.items[one] for one in order if counts[one])
    kept = [one for one in known if not fitting.in_catalogue or one in fitting.in_catalogue]
    return kept[:MOST_POPULAR]
