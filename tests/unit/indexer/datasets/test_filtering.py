"""k-core against a brute force; samples that do not depend on the order of the files."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexer.datasets.filtering import draws, k_core, sample_users

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), unique=True, max_size=50)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def peeled_one_by_one(pairs: list[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    left = set(pairs)
    while True:
        weak = next(
            (
                (u, i)
                for u, i in left
                if sum(v == u for v, _ in left) < k or sum(j == i for _, j in left) < k
            ),
            None,
        )
        if weak is None:
            return left
        left.remove(weak)


@given(PAIRS, st.integers(0, 4))
def test_k_core_is_the_largest_set_where_all_have_k(pairs: list[tuple[int, int]], k: int) -> None:
    users, items = arrays(pairs)
    kept = k_core(users, items, k)
    assert all(np.bincount(side[kept])[side[kept]].min(initial=k) >= k for side in (users, items))
    assert k_core(users[kept], items[kept], k).all()  # a fixed point
    found = {pair for pair, stays in zip(pairs, kept, strict=True) if stays}
    assert found == peeled_one_by_one(pairs, k)


def test_peeling_goes_on_until_nothing_changes() -> None:
    chain = [(n, n + step) for n in range(200) for step in (0, 1)]  # one end pulls off the next
    assert not k_core(*arrays(chain), 2).any()
    ring = [(n, (n + step) % 200) for n in range(200) for step in (0, 1)]
    assert k_core(*arrays(ring), 2).all()


@given(PAIRS, st.integers(0, 9), st.integers(0, 3))
def test_a_sample_holds_whole_users_and_grows(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    users, _ = arrays(pairs)
    lots = draws((f"user {n}" for n in range(8)), seed)
    smaller, larger = (sample_users(users, lots, n) for n in (size, size + 1))
    assert len(set(users[smaller])) == min(size, len(set(users)))
    assert not set(users[smaller]) & set(users[~smaller])
    assert (larger | ~smaller).all()


def test_a_lot_depends_on_id_and_seed_alone() -> None:
    ids = ["a", "b", "ü", "c"]
    assert draws(ids, 1).tolist() == draws(ids[::-1], 1).tolist()[::-1]
    assert draws(ids, 1).tolist() != draws(ids, 2).tolist()
