"""How often an alignment chooses the persona nearest to what the user says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexer.audit.bootstrap import interval
from indexer.audit.figures import Agreement
from indexer.audit.sampled_item import SampledItem
from indexer.reasoning.nearest import Case, nearest_personas
from p4r_qdrant.encoder.base import Encoder


def agreements_of(item: SampledItem, encoder: Encoder) -> list[tuple[float, float]]:
    """(1 if the alignment chooses the nearest persona else 0, 1 / personas) for each alignment."""
    cases = [Case(aspects, item.personas) for aspects, _ in item.aligned]
    nearest = nearest_personas(encoder, cases)
    return [
        (float(one.position == position), 1 / len(item.personas))
        for one, (_, position) in zip(nearest, item.aligned, strict=True)
    ]


def agreement(items: Sequence[Sequence[tuple[float, float]]], seed: int) -> Agreement | None:
    """The figures of the results of `agreements_of`, by item; None without any."""
    pairs = [pair for item in items for pair in item]
    if not pairs:
        return None
    agreed, chance = zip(*pairs, strict=True)
    return Agreement(
        alignments=len(pairs),
        items=len(items),
        agreement=float(np.mean(agreed)),
        chance=float(np.mean(chance)),
        difference=interval([[one - other for one, other in item] for item in items], seed),
    )
