"""How similar the texts of a persona are to the evidence it cites, against random aspects."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from indexer.audit.bootstrap import interval
from indexer.audit.figures import SIMILARITY_EDGES, Grounded, Grounding, Histogram
from indexer.audit.sampled_item import SampledItem
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.records import Persona
from p4r_qdrant.texts import plain_rationale

_EXAMPLES = 3
_CITED_EXAMPLES = 3


class RandomAspects:
    """Random aspect tuples of the catalogue, encoded once."""

    def __init__(self, pool: Sequence[tuple[str, str]], encoder: Encoder, seed: int) -> None:
        self._items = [item_id for item_id, _ in pool]
        self._vectors = encoder.encode_texts([text for _, text in pool])
        self._seed = seed

    def others(self, item_id: str, persona_id: str, count: int) -> Floats:
        """(count, dim) vectors of random aspects of other items; fewer if there are fewer."""
        rows = [row for row, item in enumerate(self._items) if item != item_id]
        chance = random.Random(f"{self._seed}\x00{item_id}\x00{persona_id}")  # noqa: S311
        return self._vectors[chance.sample(rows, min(count, len(rows)))]


@dataclass
class GroundingMeter:
    """Collects (similarity to the evidence, to random aspects) of each persona, by item."""

    rationales: list[list[tuple[float, float]]] = field(default_factory=list)
    descriptions: list[list[tuple[float, float]]] = field(default_factory=list)
    best: list[Grounded] = field(default_factory=list)
    worst: list[Grounded] = field(default_factory=list)

    def add(self, item: SampledItem, encoder: Encoder, pool: RandomAspects) -> None:
        """Compare the personas of one more item with their evidence."""
        similarities: list[tuple[list[float], list[float]]] = []
        for persona, cited in zip(item.personas, item.cited, strict=True):
            if not cited:
                continue
            texts = encoder.encode_texts(
                [plain_rationale(persona.preference_rationale), persona.description, *cited]
            )
            own, evidence = texts[:2], texts[2:]
            near = (own @ evidence.T).mean(axis=1).tolist()
            self._example(item, persona, cited, near[0])
            random_ones = pool.others(item.item_id, persona.persona_id, len(cited))
            if len(random_ones):
                similarities.append((near, (own @ random_ones.T).mean(axis=1).tolist()))
        if similarities:
            self.rationales.append([(near[0], far[0]) for near, far in similarities])
            self.descriptions.append([(near[1], far[1]) for near, far in similarities])

    def _example(
        self, item: SampledItem, persona: Persona, cited: Sequence[str], similarity: float
    ) -> None:
        one = Grounded(
            item.title,
            persona.label,
            plain_rationale(persona.preference_rationale),
            cited[:_CITED_EXAMPLES],
            similarity,
        )
        self.best = heapq.nlargest(_EXAMPLES, [*self.best, one], key=lambda it: it.similarity)
        self.worst = heapq.nsmallest(_EXAMPLES, [*self.worst, one], key=lambda it: it.similarity)


def grounding(items: Sequence[Sequence[tuple[float, float]]], seed: int) -> Grounding | None:
    """The figures of (similarity to the evidence, to random aspects) by item; None without any."""
    pairs = [pair for item in items for pair in item]
    if not pairs:
        return None
    near, far = zip(*pairs, strict=True)
    return Grounding(
        personas=len(pairs),
        items=len(items),
        cited=float(np.mean(near)),
        random=float(np.mean(far)),
        difference=interval([[one - other for one, other in item] for item in items], seed),
        cited_of_personas=Histogram.of(near, SIMILARITY_EDGES),
        random_of_personas=Histogram.of(far, SIMILARITY_EDGES),
    )
