"""Vectors of interactions in memory: never for another text, never more than allowed."""

import numpy as np
import pytest

from p4r_qdrant.users.qdrant import vectors
from p4r_qdrant.users.records import StoredInteraction


def interaction(number: int, user_id: str = "ada", summary: str = "a kettle") -> StoredInteraction:
    vector = np.full(3, number, dtype=np.float32)
    return StoredInteraction(user_id, "kettle", number, summary=summary, vector=vector)


def test_a_changed_text_has_no_vector() -> None:
    cache = vectors._Cache()
    cache.add([interaction(1)])
    held = cache.get(interaction(1))
    assert held is not None
    assert held.tolist() == [1, 1, 1]
    assert cache.get(interaction(1, summary="a pot")) is None
    assert cache.get(interaction(2)) is None


def test_the_oldest_go_and_a_user_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MAX_CACHED", 3)
    cache = vectors._Cache()
    cache.add([interaction(number) for number in range(3)])
    cache.add([interaction(0), interaction(9, "bob")])
    assert [cache.get(interaction(number)) is None for number in range(3)] == [False, True, False]
    cache.erase("ada")
    assert cache.get(interaction(0)) is None
    assert cache.get(interaction(9, "bob")) is not None
