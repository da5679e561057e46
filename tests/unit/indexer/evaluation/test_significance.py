"""Intervals and tests, against slow and plain ways of computing them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluation.significance import compare, holm, interval
from indexer.metrics import metric_names, metric_values

NDCG_10 = metric_names().index("NDCG@10")


def test_the_interval_is_that_of_plain_resampling() -> None:
    rng = np.random.default_rng(3)
    ranks = rng.integers(0, 40, 300)
    values = metric_values(ranks)[:, NDCG_10]
    means = [values[rng.integers(0, 300, 300)].mean() for _ in range(10_000)]
    low, high = interval(ranks)
    expected = np.quantile(means, [0.025, 0.975])
    assert [low[NDCG_10], high[NDCG_10]] == pytest.approx(expected, abs=0.002)
    assert low[NDCG_10] < values.mean() < high[NDCG_10]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        ranks = np.where(np.random.default_rng(seed).random(200) < 0.3, 1, 0)
        low, high = interval(ranks, (1,), resamples=1000)
        hits += low[0] <= 0.3 <= high[0]
    assert 0.88 <= hits / 200 <= 0.99


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=9),
)
def test_p_is_that_of_all_exchanges(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = np.array(pairs).T
    gains = (metric_values(ours) - metric_values(theirs))[:, NDCG_10]
    sums = [
        abs(sum(sign * gain for sign, gain in zip(signs, gains, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    exact = np.mean([one >= abs(gains.sum()) - 1e-9 for one in sums])
    found = compare(ours, theirs, resamples=4000)
    assert found.p[NDCG_10] == pytest.approx(exact, abs=0.04)
    assert found.difference[NDCG_10] == pytest.approx(gains.mean(), abs=1e-12)
    assert found.low[NDCG_10] - 1e-9 <= found.difference[NDCG_10] <= found.high[NDCG_10] + 1e-9


def test_no_difference_and_a_plain_one() -> None:
    same = np.array([1, 2, 0, 30, 4] * 20)
    found = compare(same, same)
    assert found.p == pytest.approx(1.0)
    assert found.difference == pytest.approx(0.0)
    # Beyond the last cutoff a rank is as good as none.
    assert compare(np.array([25, 0]), np.array([0, 99])).p == pytest.approx(1.0)
    better = compare(np.ones(60, dtype=np.int64), same[:60])
    assert better.p[NDCG_10] < 0.001
    assert better.low[NDCG_10] > 0


def test_the_same_seed_the_same_figures() -> None:
    ranks = np.arange(100) % 25
    one, two = compare(ranks, ranks[::-1].copy()), compare(ranks, ranks[::-1].copy())
    assert (one.p == two.p).all()
    assert (one.low == two.low).all()
    assert (compare(ranks, ranks[::-1].copy(), seed=1).low != one.low).any()


def test_holm() -> None:
    # Sorted: .01 x 4, .02 x 3, .03 x 2 (no less than before), .04 x 1 (no less than before).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)
