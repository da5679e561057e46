"""A: what each persona thinks of every item, against loops in NumPy."""

import numpy as np
import numpy.typing as npt
import pytest

from indexer.collaborative import hypothetical
from indexer.collaborative.hypothetical import PersonaVectors, affinities

pytest.importorskip("scipy.sparse")

COUNTS = (2, 1, 3, 1, 4)


@pytest.fixture
def personas() -> PersonaVectors:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((sum(COUNTS), 6))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return PersonaVectors(list("abcde"), unit, np.cumsum([0, *COUNTS]))


def centred(personas: PersonaVectors) -> npt.NDArray[np.float64]:
    """A by its formula."""
    found = np.array(
        [
            [
                max(float(own @ other) for other in personas.vectors[start:end])
                for start, end in zip(personas.starts[:-1], personas.starts[1:], strict=True)
            ]
            for own in personas.vectors
        ]
    )
    return np.asarray(found - found.mean(axis=0))


@pytest.mark.parametrize("block_bytes", [1, 200, 2**20])
def test_the_formula(
    personas: PersonaVectors, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled to a mean squared length of 1; an item without personas has an empty column."""
    monkeypatch.setattr(hypothetical, "BLOCK_BYTES", block_bytes)
    columns = np.array([0, 1, 3, 4, 5])
    found = affinities(personas, columns, 6, keep=200).toarray()
    assert found.shape == (11, 6)
    assert np.square(found).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    assert not found[:, 2].any()
    expected = centred(personas)
    scale = np.sqrt(np.square(expected).sum() / 11)
    assert found[:, columns] == pytest.approx(expected / scale, abs=1e-5)


def test_the_largest_entries_stay(personas: PersonaVectors) -> None:
    found = affinities(personas, np.arange(5), 5, keep=2).toarray()
    for own, all_of_them in zip(found, centred(personas), strict=True):
        assert set(np.flatnonzero(own)) == set(np.argsort(-np.abs(all_of_them))[:2])


def test_of_many_personas_some_at_equal_distances(
    personas: PersonaVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypothetical, "MOST_USERS", 3)
    few = affinities(personas, np.arange(5), 5, keep=5).toarray()
    monkeypatch.setattr(hypothetical, "MOST_USERS", 50)
    everything = affinities(personas, np.arange(5), 5, keep=5).toarray()
    ratio = few[0, 0] / everything[0, 0]
    assert few == pytest.approx(everything[[0, 5, 10]] * ratio, rel=1e-4)


def test_one_item_is_like_nobody() -> None:
    """Nothing to compare with: a row of zeros, not a division by zero."""
    alone = PersonaVectors(["a"], np.eye(1, 4, dtype=np.float32), np.array([0, 1]))
    assert not affinities(alone, np.array([0]), 1, keep=200).toarray().any()


def test_the_hash_is_of_ids_vectors_and_bounds(personas: PersonaVectors) -> None:
    def same(items: str, vectors: npt.NDArray[np.float32], starts: list[int]) -> bool:
        return PersonaVectors(list(items), vectors, np.array(starts)).hash == personas.hash

    starts = personas.starts.tolist()
    assert same("abcde", personas.vectors.copy(), starts)
    assert not same("abcdf", personas.vectors, starts)
    assert not same("abcde", personas.vectors[::-1], starts)
    assert not same("abcde", personas.vectors, [0, 1, *starts[2:]])
