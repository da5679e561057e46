"""Weights of the score on validation items: never below the generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.tuning.weights import Case, choose_weights, every_weighting, forms, measured
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import standard_columns
from p4r_qdrant.settings import RerankSettings

GENERATOR = Weights(personas=0, collaborative=0, generator=1)


def case(target: int | None, size: int = 3, personas: dict[str, float] | None = None) -> Case:
    candidates = [(str(place), float(size - place)) for place in range(size)]
    return Case(standard_columns(candidates, personas, None), target)


def test_tenths_that_add_up_to_one() -> None:
    found = every_weighting(has_generator=True)
    assert found[0] == GENERATOR
    assert len(found) == len(set(found)) == 66
    sums = [one.personas + one.collaborative + one.generator for one in found]
    assert sums == pytest.approx([1.0] * 66)
    assert all(one.generator == 0 for one in every_weighting(has_generator=False))
    assert len(every_weighting(has_generator=False)) == 11


def test_a_form_that_is_set_is_the_only_one_tried() -> None:
    assert [(one.interests, one.prior) for one in forms(RerankSettings())] == [
        (0.0, 0.0),
        (0.5, 0.0),
        (0.0, 0.5),
        (0.5, 0.5),
    ]
    fixed = forms(RerankSettings(interests=0.2))
    assert [(one.interests, one.prior) for one in fixed] == [(0.2, 0.0), (0.2, 0.5)]
    assert len(forms(RerankSettings(interests=0.0, prior=0.0))) == 1
    [first, *_] = every_weighting(has_generator=True, form=fixed[1])
    assert (first.interests, first.prior) == (0.2, 0.5)
    assert first.described().endswith("generator 1, interests 0.2, prior 0.5")


def test_the_rank_is_that_of_the_order() -> None:
    personas = {"0": 0.1, "1": 0.2, "2": 0.9}
    alone = Weights(personas=1, collaborative=0, generator=0)
    assert [case(at, personas=personas).rank(alone) for at in range(3)] == [3, 2, 1]
    assert [case(at, personas=personas).rank(GENERATOR) for at in range(3)] == [1, 2, 3]
    assert case(None).rank(GENERATOR) == 0
    assert case(1).rank(alone) == 2  # nothing is known of the user


Scores = st.dictionaries(st.sampled_from("01234"), st.floats(-1, 1))
Cases = st.lists(st.tuples(st.none() | st.integers(0, 4), Scores), min_size=1)


@given(Cases)
def test_the_best_is_never_below_the_generator(
    given_cases: list[tuple[int | None, dict[str, float]]],
) -> None:
    cases = [case(target, 5, personas) for target, personas in given_cases]
    found = choose_weights(cases, every_weighting(has_generator=True))
    values = [one.valid for one in found]
    assert values == sorted(values, reverse=True)
    assert values[0] >= measured(cases, GENERATOR)
    if values[0] == measured(cases, GENERATOR):
        assert found[0].weights == GENERATOR
    assert np.isfinite(values).all()
