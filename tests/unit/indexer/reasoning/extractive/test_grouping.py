"""Groups of sentences: as many as there are subjects, each most central sentence first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.reasoning.extractive.grouping import MOST_GROUPS, groups, nearest_slots
from p4r_qdrant.arrays import Floats, normalised


def around(*centres: int, each: int, noise: float = 0.05, dimension: int = 16) -> Floats:
    """`each` vectors around each of the coordinates, seeded."""
    random = np.random.default_rng(0)
    rows = np.repeat(np.eye(dimension, dtype=np.float32)[list(centres)], each, axis=0)
    return normalised(rows + noise * random.standard_normal(rows.shape).astype(np.float32))


@pytest.mark.parametrize("subjects", [2, 3, 5, 7])
def test_the_number_of_groups_is_that_of_the_subjects(subjects: int) -> None:
    vectors = around(*range(subjects), each=8)
    found = groups(vectors, seed=0)
    assert sorted(sorted(one) for one in found) == [
        list(range(8 * subject, 8 * subject + 8)) for subject in range(subjects)
    ]


def test_the_largest_group_is_first_and_its_most_central_sentence_too() -> None:
    vectors = np.concatenate([around(0, each=4), around(1, each=9)])
    largest, other = groups(vectors, seed=0)
    assert set(largest) == set(range(4, 13))
    assert set(other) == set(range(4))
    centre = vectors[largest].mean(axis=0)
    near = vectors[largest] @ centre
    assert list(near) == sorted(near, reverse=True)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_few_sentences_are_one_group(count: int) -> None:
    found = groups(around(*range(count), each=1), seed=0)
    assert [sorted(one) for one in found] == ([list(range(count))] if count else [])


def test_equal_sentences_are_one_group() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:1], 30, axis=0)
    assert [sorted(one) for one in groups(vectors, seed=0)] == [list(range(30))]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(0, 3))
def test_each_sentence_is_in_one_group_and_a_seed_decides_which(count: int, seed: int) -> None:
    vectors = normalised(
        np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
    )
    found = groups(vectors, seed)
    assert sorted(number for one in found for number in one) == list(range(count))
    assert 1 <= len(found) <= MOST_GROUPS
    assert groups(vectors, seed) == found


def test_the_nearest_slot_of_each_sentence() -> None:
    slots = np.eye(3, dtype=np.float32)
    vectors = normalised(np.array([[0.9, 0.1, 0], [0, 0.2, 0.9]], dtype=np.float32))
    assert nearest_slots(vectors, slots) == [0, 2]
    assert nearest_slots(vectors[:0], slots) == []
