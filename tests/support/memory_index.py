"""A persona index in dictionaries: the engines' contract without their storage.

For tests of the reranker, of publishing and of the replacement protocol. Any primitive can be made
to fail.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.engine import (
    BestPoints,
    IndexStats,
    ItemPage,
    NearPoint,
    StoredPoints,
)
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point, in_order, point_id
from p4r_qdrant.index.query import scores_of
from tests.support.memory_columns import MemoryColumnSets


class MemoryIndex(PersonaIndex):
    """An index on a `MemoryEngine`; subclasses override `_step` to disturb it."""

    engine: "MemoryEngine"

    def __init__(self, dimension: int = 8, fingerprint: str = "test", max_personas: int = 7):
        metadata = IndexMetadata(fingerprint, dimension)
        super().__init__(MemoryEngine(metadata, max_personas, lambda name: self._step(name)))
        self.calls: list[str] = []
        self.fail_before = ""

    @property
    def points(self) -> dict[str, Point]:
        return self.engine.stored

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail_before:
            raise KeyboardInterrupt(f"killed before {name}")


class MemoryEngine:
    """See `Engine`. `step` is called with the name of each primitive before it does anything."""

    fields: Mapping[str, str] = {"item_id": "keyword", "shelf": "keyword"}
    location = "the memory of a test"
    datatype = "float32"

    def __init__(self, metadata: IndexMetadata, max_personas: int, step: Callable[[str], None]):
        self.metadata = metadata
        self.max_personas = max_personas
        self.waits = True
        self.tenant = ""
        self.stored: dict[str, Point] = {}
        self._step = step
        self.columns = MemoryColumnSets(step)

    def complete(self) -> None: ...

    def point_id(self, item_id: str, position: int) -> str:
        return point_id(item_id, position)

    def read_fields(self) -> Mapping[str, str]:
        return self.fields

    def best_points(
        self,
        vectors: Floats,
        candidates: list[list[str]],
        conditions: list[Condition],
        top: int | None = None,
    ) -> list[BestPoints]:
        self._step("best_points")
        answer = []
        for vector, item_ids in zip(vectors, candidates, strict=True):
            best: BestPoints = {}
            for point in sorted(self.stored.values(), key=lambda one: one.id):
                item_id = point.payload["item_id"]
                if item_id not in item_ids or not _fits(point.payload, conditions):
                    continue
                score = float(np.float32(vector @ point.vector))
                if item_id not in best or score > best[item_id][0]:
                    best[item_id] = (score, point.id)
            answer.append(best)
        return answer

    def best_scores(self, vectors: Floats, item_ids: list[str]) -> Floats:
        return scores_of(self.best_points(vectors, [item_ids] * len(vectors), []), item_ids)

    def nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[NearPoint]:
        found = [
            (float(vector @ point.vector), point.id, str(point.payload["item_id"]))
            for point in self.stored.values()
            if all(
                (point.payload.get(one.field) in one.any_of) is not one.negated
                for one in conditions
            )
        ]
        return sorted(found, key=lambda one: (-one[0], one[1]))[:limit]

    def state(self) -> int | None:
        """As if other processes could write."""
        return None

    def points(self, point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        self._step("points")
        found = [self.stored[one] for one in point_ids if one in self.stored]
        return {one.id: (one.payload, one.vector if with_vectors else None) for one in found}

    def points_of(self, item_ids: Sequence[str]) -> list[Point]:
        self._step("points_of")
        return in_order(
            item_ids, (one for one in self.stored.values() if one.payload["item_id"] in item_ids)
        )

    def write_metadata(self, metadata: IndexMetadata) -> None:
        self._step("metadata")
        self.metadata = metadata

    def read_metadata(self) -> None: ...

    def replacing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def discard_derived(self) -> None:
        pass

    def optimize(self) -> None:
        pass

    def purge(self) -> list[str]:
        self._step("purge")
        return []

    def upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        self._step("upsert")
        for point in points:
            held = self.stored.get(point.id)
            if held is None or older_than is None or held.payload["generation"] < older_than:
                self.stored[point.id] = Point(point.id, point.vector, dict(point.payload))

    def delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        self._step("delete")
        for point in list(self.stored.values()):
            older = older_than is None or point.payload["generation"] < older_than
            if point.payload["item_id"] in item_ids and older:
                del self.stored[point.id]

    def delete_unchanged(self, written: Mapping[str, int]) -> None:
        for item_id, generation in written.items():
            self.delete([item_id], older_than=generation + 1)

    def clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        self._step("clear_mark")
        for point in self.stored.values():
            if point.payload["item_id"] in item_ids and point.payload["generation"] == generation:
                point.payload.pop("unsettled", None)

    def payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        self._step("payloads")
        return [
            {name: value for name, value in point.payload.items() if not fields or name in fields}
            for item_id in item_ids
            for point in sorted(self.stored.values(), key=lambda one: int(one.payload["slot"]))
            if point.payload["item_id"] == item_id
        ]

    def item_ids(self) -> Iterator[str]:
        return iter(dict.fromkeys(one.payload["item_id"] for one in self.stored.values()))

    def item_page(
        self, conditions: list[Condition], words: str, limit: int, start: str | None
    ) -> ItemPage:
        found = [
            point
            for _, point in sorted(self.stored.items())
            if not point.payload["slot"] and _fits(point.payload, conditions)
            if set(words.lower().split()) <= set(str(point.payload["item_title"]).lower().split())
            if start is None or point.id >= start
        ]
        following = found[limit].id if len(found) > limit else None
        return [one.payload["item_id"] for one in found[:limit]], following

    def written(self) -> Iterator[tuple[str, int]]:
        firsts = (one.payload for one in list(self.stored.values()) if not one.payload["slot"])
        return iter([(one["item_id"], one["generation"]) for one in firsts])

    def unsettled(self) -> list[str]:
        marked = (one.payload for one in self.stored.values() if one.payload.get("unsettled"))
        return sorted({payload["item_id"] for payload in marked})

    def stats(self) -> IndexStats:
        items = len(list(self.item_ids()))
        return IndexStats("memory", self.location, len(self.stored), items, self.metadata, {})

    def close(self) -> None:
        pass


def _fits(payload: dict[str, Any], conditions: list[Condition]) -> bool:
    """Enough for tests of callers: equality only."""
    return all(payload.get(one.field) in one.any_of for one in conditions)
