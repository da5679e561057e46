"""Eq. 6-8 by hand, without a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import Interaction, texts
from p4r_qdrant.arrays import normalised
from p4r_qdrant.encoder.user_vector import newest_first, user_vector
from tests.support.hash_encoder import HashEncoder
from tests.support.oracle import persona


def test_the_decayed_mean_by_hand() -> None:
    """(1, 0) + 1/2 (0, 1) over 3/2 points to (2, 1) / sqrt(5) (Eq. 7)."""
    interactions = [Interaction("new", 2), Interaction("old", 1)]
    embeddings = np.array([[1, 0], [0, 1]], dtype=np.float32)
    vector = user_vector(interactions, embeddings, decay=0.5)
    assert vector is not None
    assert vector.vector == pytest.approx(np.array([2, 1]) / np.sqrt(5))
    assert vector.weights @ vector.embeddings == pytest.approx(vector.vector)


def test_what_each_interaction_contributes_by_hand() -> None:
    interactions = [Interaction("new", 2, title="New"), Interaction("old", 1)]
    vector = user_vector(interactions, np.eye(2, dtype=np.float32), decay=0.5)
    assert vector is not None
    reasons = vector.because(np.array([0.6, 0.8], dtype=np.float32))
    root = np.sqrt(5)
    assert [one.item_id for one in reasons] == ["new", "old"]
    assert [one.contribution for one in reasons] == pytest.approx([1.2 / root, 0.8 / root])
    assert [one.share for one in reasons] == pytest.approx([0.6, 0.4])


@given(
    rows=st.lists(
        st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=6
    ),
    decay=st.floats(0.05, 1),
)
def test_the_user_vector_is_a_unit_vector_or_nothing(rows: list[list[float]], decay: float) -> None:
    interactions = [Interaction(str(number), -number) for number in range(len(rows))]
    vector = user_vector(interactions, normalised(rows), decay)
    if vector is not None:
        assert np.linalg.norm(vector.vector) == pytest.approx(1, abs=1e-5)
        assert np.isfinite(vector.weights).all()


def test_embeddings_that_cancel_out_point_nowhere() -> None:
    opposite = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    assert user_vector([Interaction("a", 1), Interaction("b", 1)], opposite, decay=1.0) is None
    assert user_vector([], np.zeros((0, 2), dtype=np.float32), decay=1.0) is None


def test_newest_first_with_ties_by_item_id() -> None:
    told = [Interaction("b", 5), Interaction("a", 9), Interaction("c", 5), Interaction("d", 1)]
    assert [one.item_id for one in newest_first(told, 3)] == ["a", "c", "b"]


def test_histories_of_many_users_are_one_batch_of_distinct_texts() -> None:
    encoder = HashEncoder()
    shared = Interaction("i", 1, summary="ships")
    vectors = encoder.user_vectors(
        [[shared, Interaction("j", 2, summary="cakes")], [], [shared]], length=10, decay=0.85
    )
    assert encoder.calls == 1
    assert sorted(encoder.encoded) == ["cakes", "ships"]
    assert vectors[1] is None
    assert vectors[2] is not None
    alone = encoder.user_vectors([[shared]], length=10, decay=0.85)[0]
    assert alone is not None
    assert vectors[2].vector == pytest.approx(alone.vector)


def test_an_interaction_without_text_is_left_out() -> None:
    encoder = HashEncoder()
    silent, telling = Interaction("a", 2), Interaction("b", 1, summary="ships")
    vector = encoder.user_vectors([[silent, telling]], length=10, decay=0.5)[0]
    assert vector is not None
    assert vector.interactions == (telling,)


def test_personas_are_encoded_as_their_texts_say() -> None:
    encoder = HashEncoder()
    one = persona("p")
    encoded = encoder.encode_personas([one], "A summary.")
    assert encoder.encoded == [texts.persona_text(one, "A summary.")]
    assert encoded.shape == (1, encoder.dimension)
    assert encoded.dtype == np.float32


def test_normalised_keeps_a_zero_row_zero() -> None:
    rows = normalised([[3.0, 4.0], [0.0, 0.0]])
    assert rows.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]
