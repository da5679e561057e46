"""HR, MRR, NDCG: by hand, and as ir-measures computes them."""

import math
from fractions import Fraction

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Success, nDCG

from indexer.metrics import ceiling, mean_metrics, metric_names, metric_values, ndcg

RANKS = np.array([1, 3, 5, 6, 10, 11, 20, 21, 0, 0])


def test_by_hand() -> None:
    means = mean_metrics(RANKS)
    exact = {
        "HR@5": Fraction(3, 10),
        "HR@10": Fraction(5, 10),
        "HR@20": Fraction(7, 10),
        "MRR@5": (1 + Fraction(1, 3) + Fraction(1, 5)) / 10,
        "MRR@10": (1 + Fraction(1, 3) + Fraction(1, 5) + Fraction(1, 6) + Fraction(1, 10)) / 10,
        "MRR@20": Fraction(1, 10)
        * sum((Fraction(1, rank) for rank in (1, 3, 5, 6, 10, 11, 20)), Fraction()),
    }
    for name, fraction in exact.items():
        assert means[name] == pytest.approx(float(fraction), abs=1e-9)
    # 1 / log2(1 + 1) = 1, 1 / log2(3 + 1) = 1/2
    assert means["NDCG@5"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(6)) / 10, abs=1e-9)
    assert ndcg(RANKS, 3) == pytest.approx(float(Fraction(15, 100)), abs=1e-9)
    assert ceiling(RANKS) == pytest.approx(0.8)


def test_every_user_every_metric() -> None:
    values = metric_values(np.array([2, 0, 6]))
    assert values.shape == (3, len(metric_names()))
    assert metric_names()[:4] == ["HR@5", "MRR@5", "NDCG@5", "HR@10"]
    at_5, at_10 = values[:, :3], values[:, 3:6]
    assert at_5.tolist() == [[1, 1 / 2, 1 / math.log2(3)], [0, 0, 0], [0, 0, 0]]
    assert at_10[2] == pytest.approx([1, 1 / 6, 1 / math.log2(7)], abs=1e-12)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_as_a_library_computes_them(ranks: list[int]) -> None:
    qrels, run = [], []
    for user, rank in enumerate(ranks):
        qrels.append(ir_measures.Qrel(str(user), "truth", 1))
        for place in range(1, 31):
            item = "truth" if place == rank else f"item-{place}"
            run.append(ir_measures.ScoredDoc(str(user), item, 100.0 - place))
    library = {"HR": Success, "MRR": RR, "NDCG": nDCG}
    measures = {
        name: library[name.split("@")[0]] @ int(name.split("@")[1]) for name in metric_names()
    }
    theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    ours = mean_metrics(np.array(ranks))
    for name, measure in measures.items():
        assert ours[name] == pytest.approx(theirs[measure], abs=1e-9), name
