"""A persona index in dictionaries with a collaborative part: B as a dictionary too."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.index.columns import CollaborativePart
from tests.support.memory_index import MemoryIndex

Weights = Mapping[tuple[str, str], float]
"""B[j, i] by (j, i)."""


class CollaborativeMemoryIndex(MemoryIndex):
    """`weights`: None for an index without a collaborative part."""

    def __init__(self, weights: Weights | None, decay: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        self._weights = weights or {}
        if weights is not None:
            part = CollaborativePart(1, "", 200, len(weights), 0, settings={"decay": decay})
            self.record(collaborative=part.to_text())

    def record_scoring(self, **scoring: Any) -> None:
        """Record weights as `p4r publish` does."""
        self.record(scoring=json.dumps(scoring))

    def record(self, **changes: Any) -> None:
        self.engine.write_metadata(dataclasses.replace(self.metadata, **changes))

    def collaborative_scores(
        self, histories: Sequence[Mapping[str, float]], candidate_ids: Sequence[Sequence[str]]
    ) -> list[dict[str, float]]:
        if self.collaborative is None:
            return super().collaborative_scores(histories, candidate_ids)
        self.calls.append("collaborative_scores")
        found = []
        for history, item_ids in zip(histories, candidate_ids, strict=True):
            every = {one: self._score(history, one) for one in item_ids}
            found.append({one: score for one, score in every.items() if score})
        return found

    def collaborative_nearest(
        self, history: Mapping[str, float], limit: int, exclude: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        items = sorted({item for _, item in self._weights} - set(exclude))
        scores = [(item, self._score(history, item)) for item in items]
        best = sorted(scores, key=lambda one: (-one[1], one[0]))
        return [one for one in best if one[1] > 0][:limit]

    def collaborative_products(
        self, history: Mapping[str, float], item_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        self.calls.append("collaborative_products")
        rows = [
            [weight * self._weights.get((own, item), 0.0) for item in item_ids]
            for own, weight in history.items()
        ]
        return np.array(rows, np.float64).reshape(len(history), len(item_ids))

    def _score(self, history: Mapping[str, float], item: str) -> float:
        return sum(weight * self._weights.get((own, item), 0.0) for own, weight in history.items())
