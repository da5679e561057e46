"""A persona index in dictionaries: the engines' contract without their storage.

For tests of the reranker, of publishing and of the replacement protocol. Any primitive can be made
to fail.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point


class MemoryIndex(PersonaIndex):
    location = "the memory of a test"

    def __init__(self, dimension: int = 8, fingerprint: str = "test", max_personas: int = 7):
        super().__init__(max_personas)
        self.metadata = IndexMetadata(fingerprint, dimension)
        self.points: dict[str, Point] = {}
        self.calls: list[str] = []
        self.fail_before = ""

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail_before:
            raise KeyboardInterrupt(f"killed before {name}")

    def _best_points(
        self, vectors: Floats, candidates: list[list[str]], conditions: list[Condition]
    ) -> list[dict[str, tuple[float, str]]]:
        self._step("best_points")
        answer = []
        for vector, item_ids in zip(vectors, candidates, strict=True):
            best: dict[str, tuple[float, str]] = {}
            for point in sorted(self.points.values(), key=lambda one: one.id):
                item_id = point.payload["item_id"]
                if item_id not in item_ids or not _fits(point.payload, conditions):
                    continue
                score = float(np.float32(vector @ point.vector))
                if item_id not in best or score > best[item_id][0]:
                    best[item_id] = (score, point.id)
            answer.append(best)
        return answer

    def _nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[tuple[float, str, str]]:
        found = [
            (float(vector @ point.vector), point.id, str(point.payload["item_id"]))
            for point in self.points.values()
            if all(
                (point.payload.get(one.field) in one.any_of) is not one.negated
                for one in conditions
            )
        ]
        return sorted(found, key=lambda one: (-one[0], one[1]))[:limit]

    def _points(
        self, point_ids: Sequence[str], with_vectors: bool
    ) -> dict[str, tuple[dict[str, Any], Floats | None]]:
        self._step("points")
        found = [self.points[one] for one in point_ids if one in self.points]
        return {one.id: (one.payload, one.vector if with_vectors else None) for one in found}

    def _write_metadata(self) -> None:
        self._step("metadata")

    def _upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        self._step("upsert")
        for point in points:
            held = self.points.get(point.id)
            if held is None or older_than is None or held.payload["generation"] < older_than:
                self.points[point.id] = Point(point.id, point.vector, dict(point.payload))

    def _delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        self._step("delete")
        for point in list(self.points.values()):
            older = older_than is None or point.payload["generation"] < older_than
            if point.payload["item_id"] in item_ids and older:
                del self.points[point.id]

    def _clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        self._step("clear_mark")
        for point in self.points.values():
            if point.payload["item_id"] in item_ids and point.payload["generation"] == generation:
                point.payload.pop("unsettled", None)

    def _payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        self._step("payloads")
        return [
            {name: value for name, value in point.payload.items() if not fields or name in fields}
            for item_id in item_ids
            for point in sorted(self.points.values(), key=lambda one: int(one.payload["slot"]))
            if point.payload["item_id"] == item_id
        ]

    def _item_ids(self) -> Iterator[str]:
        return iter(dict.fromkeys(one.payload["item_id"] for one in self.points.values()))

    def _unsettled(self) -> list[str]:
        marked = (one.payload for one in self.points.values() if one.payload.get("unsettled"))
        return sorted({payload["item_id"] for payload in marked})

    def stats(self) -> IndexStats:
        items = len(list(self._item_ids()))
        return IndexStats("memory", self.location, len(self.points), items, self.metadata, {})

    def close(self) -> None:
        pass


def _fits(payload: dict[str, Any], conditions: list[Condition]) -> bool:
    """Enough for tests of callers: equality only."""
    return all(payload.get(one.field) in one.any_of for one in conditions)
