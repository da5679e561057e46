"""B in closed form and by neighbourhood, against NumPy."""

import numpy as np
import numpy.typing as npt
import pytest

from indexer.collaborative import weights
from indexer.collaborative.weights import by_neighbourhood, exact
from p4r_qdrant.errors import InputError

scipy_sparse = pytest.importorskip("scipy.sparse")


def users(n_users: int, n_items: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.random((n_users, n_items)) < 0.3).astype(np.float32)


def solved(dense: npt.NDArray[np.float32], l2: float) -> npt.NDArray[np.float64]:
    inverse = np.linalg.inv(dense.T.astype(float) @ dense + l2 * np.eye(dense.shape[1]))
    found = -inverse / np.diag(inverse)
    np.fill_diagonal(found, 0)
    return np.asarray(found)


@pytest.mark.parametrize("at_once", [1, 4, 7, 512])
@pytest.mark.parametrize("n_items", [1, 2, 20])
def test_exact(n_items: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "COLUMNS_AT_ONCE", at_once)
    dense = users(50, n_items)
    found = exact(scipy_sparse.csr_matrix(dense), 3.0)
    assert found.dtype == np.float32
    assert found == pytest.approx(solved(dense, 3.0), abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_all_items_as_neighbours_are_the_exact_solution(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "COLUMNS_AT_ONCE", at_once)
    dense = users(200, 20)
    assert ((dense.T @ dense) > 0).all(), "each pair of items has a user"
    found = by_neighbourhood(scipy_sparse.csr_matrix(dense), 3.0, neighbours=19)
    assert found.toarray() == pytest.approx(solved(dense, 3.0), abs=1e-6)


def test_few_neighbours_are_those_with_the_largest_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "KNOWN", 5)  # all of X'X
    dense = users(200, 20)
    found = by_neighbourhood(scipy_sparse.csr_matrix(dense), 3.0, neighbours=4).toarray()
    together = dense.T @ dense
    for item in range(20):
        others = np.delete(np.arange(20), item)
        chosen = np.flatnonzero(found[:, item])
        assert len(chosen) <= 4
        rest = np.setdiff1d(others, chosen)
        assert together[chosen, item].min() >= together[rest, item].max()
        square = dense[:, chosen].T @ dense[:, chosen] + 3 * np.eye(len(chosen))
        ridge = np.linalg.solve(square.astype(float), together[chosen, item].astype(float))
        assert found[chosen, item] == pytest.approx(ridge, abs=1e-6)


def test_an_entry_that_no_column_keeps_counts_as_0() -> None:
    """Of X'X the largest entries of each column are known, in either of its two columns."""
    dense = users(200, 20) * np.random.default_rng(1).random((200, 20), dtype=np.float32)
    found = by_neighbourhood(scipy_sparse.csr_matrix(dense), 3.0, neighbours=4).toarray()
    together = (dense.T @ dense).astype(float)
    kept = np.zeros((20, 20), dtype=bool)
    for item in range(20):
        others = np.delete(np.arange(20), item)
        kept[others[np.argsort(-together[others, item], kind="stable")[:8]], item] = True
    together[~(kept | kept.T | np.eye(20, dtype=bool))] = 0
    for item in range(20):
        chosen = np.flatnonzero(found[:, item])
        square = together[np.ix_(chosen, chosen)] + 3 * np.eye(len(chosen))
        known = np.linalg.solve(square, together[chosen, item])
        assert found[chosen, item] == pytest.approx(known, abs=1e-5)


def test_an_item_alone_has_no_neighbours() -> None:
    dense = np.array([[1, 0, 0], [0, 1, 1]], dtype=np.float32)
    found = by_neighbourhood(scipy_sparse.csr_matrix(dense), 1.0).toarray()
    assert found == pytest.approx(np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]]))


def test_too_little_regularization_is_one_sentence() -> None:
    same = np.ones((5, 3), dtype=np.float32)
    with pytest.raises(InputError, match="EASE cannot be solved with l2 = 0; choose a larger one"):
        exact(scipy_sparse.csr_matrix(same), 0.0)
