"""The one score of all users at once is that of each user's list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluation.generators.hybrid import _Proposed
from indexer.evaluation.interactions import Interactions
from p4r_qdrant.rerank.scoring import Weights
from p4r_qdrant.rerank.standard import Columns, combined

ITEMS = 6
WEIGHT = st.sampled_from([0.0, 0.3, 1.0])
VALUE = st.floats(-3, 3, width=32)


@st.composite
def proposals(draw: st.DrawFn) -> tuple[list[int], Columns]:
    items = draw(st.lists(st.integers(0, ITEMS - 1), unique=True))
    part = st.none() | st.lists(VALUE, min_size=len(items), max_size=len(items)).map(np.array)
    return items, (draw(part), draw(part), draw(part))


@given(
    proposed=st.lists(proposals(), min_size=1, max_size=4),
    weights=st.builds(Weights, personas=WEIGHT, collaborative=WEIGHT, generator=WEIGHT),
)
def test_the_scores_of_a_block_are_those_of_each_list(
    proposed: list[tuple[list[int], Columns]], weights: Weights
) -> None:
    users, items = ([f"{name}{n}" for n in range(ITEMS)] for name in "ui")
    empty = np.zeros(0, dtype=np.int64)
    training = Interactions(users, items, empty, empty, empty, known_items=frozenset())
    block = _Proposed(training, lambda _: proposed).scores(np.arange(len(proposed)), weights)
    for row, (own, columns) in zip(block, proposed, strict=True):
        found = combined(columns, weights)
        expected = np.full(ITEMS, -np.inf)
        expected[own] = 0.0 if found is None else found.scores
        np.testing.assert_array_equal(row, expected)
