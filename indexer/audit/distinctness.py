"""How similar the personas of one item are, against those of different items."""

from __future__ import annotations

import heapq
from itertools import combinations

import numpy as np

from indexer.audit.figures import SIMILARITY_EDGES, Alike, Distinctness, Histogram
from indexer.audit.sampled_item import SampledItem
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.texts import persona_text

_EXAMPLES = 3


class DistinctnessMeter:
    """Collects similarities of personas, within items and between items."""

    def __init__(self, dimension: int) -> None:
        self._means: list[float] = []
        self._maxima: list[float] = []
        self._most: list[Alike] = []
        self._sum = np.zeros(dimension)
        self._squares = 0.0
        self._count = 0
        self._count_squares = 0

    def add(self, item: SampledItem, encoder: Encoder) -> None:
        """Compare the personas of one more item."""
        vectors = encoder.encode_texts([persona_text(one) for one in item.personas])
        vectors = vectors.astype(np.float64)
        total = vectors.sum(axis=0)
        self._sum += total
        self._squares += float(total @ total)
        self._count += len(vectors)
        self._count_squares += len(vectors) ** 2
        pairs = list(combinations(range(len(vectors)), 2))
        if not pairs:
            return
        alike = [float(vectors[one] @ vectors[other]) for one, other in pairs]
        self._means.append(float(np.mean(alike)))
        self._maxima.append(max(alike))
        one, other = (item.personas[position] for position in pairs[int(np.argmax(alike))])
        pair = Alike(
            item.title,
            (one.label, other.label),
            (one.description, other.description),
            max(alike),
        )
        self._most = heapq.nlargest(_EXAMPLES, [*self._most, pair], key=lambda two: two.similarity)

    def figures(self) -> Distinctness | None:
        """The figures of all items so far; None without an item that has two personas."""
        if not self._means:
            return None
        # The similarities of all pairs sum up to the squared length of the sum of all vectors;
        # those within an item are subtracted.
        pairs = self._count**2 - self._count_squares
        others = (float(self._sum @ self._sum) - self._squares) / pairs if pairs else None
        return Distinctness(
            items=len(self._means),
            mean=float(np.mean(self._means)),
            maximum=float(np.mean(self._maxima)),
            others=others,
            means=Histogram.of(self._means, SIMILARITY_EDGES),
            maxima=Histogram.of(self._maxima, SIMILARITY_EDGES),
            most_alike=self._most,
        )
