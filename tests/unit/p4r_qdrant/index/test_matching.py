"""Score and texts of one writing of an item, whoever replaces it in between."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from p4r_qdrant import PersonaReranker
from p4r_qdrant.index.engine import StoredPoints
from p4r_qdrant.index.matching import ATTEMPTS
from p4r_qdrant.records import PersonaMatch
from p4r_qdrant.settings import RerankSettings
from tests.support.memory_index import MemoryIndex
from tests.support.oracle import persona

NORTH, EAST = np.eye(2, dtype=np.float32)


class Replaced(MemoryIndex):
    """An item that is replaced `times` times, each time after it was scored."""

    def __init__(self, times: int) -> None:
        super().__init__(dimension=2)
        self.times = 0
        self.write()
        self.times = times
        read = self.engine.points

        def points(point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
            if self.times:
                self.times -= 1
                self.write()
            return read(point_ids, with_vectors)

        self.engine.points = points  # type: ignore[method-assign]

    def write(self) -> None:
        """Turn by turn a persona `east` and a persona `north`, at the same point."""
        name, vector = (("east", EAST), ("north", NORTH))[self.times % 2]
        self.replace_item("a", [persona(name)], vector[None])


class Alone(Replaced):
    """The same where no other process can write, so that the engine knows of each write."""

    def __init__(self, times: int) -> None:
        super().__init__(times)
        self.engine.state = lambda: -self.times  # type: ignore[method-assign]


class Kept(Replaced):
    """The same where writers can be kept out."""

    def __init__(self, times: int) -> None:
        super().__init__(times)

        @contextmanager
        def replacing() -> Iterator[None]:
            kept, self.times = self.times, 0
            yield
            self.times = kept

        self.engine.replacing = replacing  # type: ignore[method-assign]


def check(match: PersonaMatch) -> None:
    assert match.persona is not None
    assert match.score == {"east": 1.0, "north": 0.0}[match.persona.persona_id]


@pytest.mark.parametrize("kind", [Replaced, Alone])
@pytest.mark.parametrize("times", [0, 1, 2, ATTEMPTS - 1])
def test_an_item_replaced_under_a_reader_is_scored_again(times: int, kind: type[Replaced]) -> None:
    [[match]] = kind(times).best_personas([EAST], [["a"]])
    check(match)
    assert match.vector is None
    [match] = kind(times).nearest_items(EAST, 1)
    check(match)
    assert match.vector is None


@pytest.mark.parametrize("times", [0, 1, 2, ATTEMPTS - 1])
@pytest.mark.parametrize("fusion", ["none", "rrf", "weighted"])
def test_a_ranking_is_of_one_writing_of_each_item(times: int, fusion: str) -> None:
    settings = RerankSettings.model_validate({"fusion": fusion})
    reranker = PersonaReranker(Replaced(times), rerank=settings)
    [item] = reranker.rerank(EAST, [("a", 0.5)]).items
    check(PersonaMatch("a", item.persona_score, None, item.persona))


@pytest.mark.parametrize(("kind", "read"), [(Replaced, True), (Alone, False)])
def test_vectors_are_read_only_where_others_may_write(kind: type[Replaced], read: bool) -> None:
    index = kind(0)
    asked = []
    points = index.engine.points

    def watched(point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        asked.append(with_vectors)
        return points(point_ids, with_vectors)

    index.engine.points = watched  # type: ignore[method-assign]
    index.best_personas([EAST], [["a"]])
    assert asked == [read]


def test_writes_of_other_items_cost_one_more_pass_and_not_all_attempts() -> None:
    index = Alone(0)
    states = iter(range(100))
    index.engine.state = lambda: next(states)  # type: ignore[method-assign]
    [[match]] = index.best_personas([EAST], [["a"]])
    check(match)
    assert index.calls.count("best_points") == 2


@pytest.mark.parametrize("kind", [Replaced, Alone])
def test_an_index_that_never_rests_is_not_asked_for_ever(kind: type[Replaced]) -> None:
    index = kind(10**6)
    [[match]] = index.best_personas([EAST], [["a"]])
    assert match.persona
    assert index.calls.count("best_points") == ATTEMPTS


def test_at_last_nobody_may_replace_an_item() -> None:
    [[match]] = Kept(10**6).best_personas([EAST], [["a"]])
    check(match)
    [match] = Kept(10**6).nearest_items(EAST, 1)
    check(match)


@pytest.mark.parametrize("fusion", ["none", "rrf", "weighted"])
def test_a_ranking_is_made_at_last_while_nobody_may_replace_an_item(fusion: str) -> None:
    settings = RerankSettings.model_validate({"fusion": fusion})
    reranker = PersonaReranker(Kept(10**6), rerank=settings)
    [item] = reranker.rerank(EAST, [("a", 0.5)]).items
    check(PersonaMatch("a", item.persona_score, None, item.persona))


@pytest.mark.parametrize(("kind", "times"), [(Replaced, 2), (Kept, 10**6)])
def test_why_not_is_told_of_one_writing(kind: type[Replaced], times: int) -> None:
    item = PersonaReranker(kind(times)).why_not(EAST, "a", ["a"], top=1).item
    check(PersonaMatch("a", item.persona_score, None, item.persona))


def test_rounding_and_long_directions_are_not_taken_for_a_change() -> None:
    index = Replaced(0)
    for length in (1e-3, 1.0, 300.0):
        index.calls.clear()
        index.best_personas([np.array([[length / 3, length / 7], [0, -length]])], [["a"]])
        assert index.calls.count("best_points") == 1
