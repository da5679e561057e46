"""Eq. 9 by hand: which personas are negatives, with what weight, and the user side of Eq. 7."""

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from indexer.training.batches import Collator  # noqa: E402
from indexer.training.loss import batch_loss, info_nce, log_weights  # noqa: E402
from indexer.training.pairs import Catalogue, Example  # noqa: E402
from p4r_qdrant import Interaction  # noqa: E402
from p4r_qdrant.settings import TrainingSettings  # noqa: E402
from p4r_qdrant.texts import interaction_text  # noqa: E402
from tests.support.hash_encoder import HashEncoder  # noqa: E402

DECAY = 0.7


@pytest.fixture
def catalogue() -> Catalogue:
    """Items a, b, c with two personas each: 0 and 1, 2 and 3, 4 and 5."""
    found = Catalogue({"a": 0, "b": 1, "c": 2})
    found.texts = [f"persona {one}" for one in range(6)]
    found.persona_ids = found.texts
    found.item_of = [0, 0, 1, 1, 2, 2]
    found.starts = [0, 2, 4, 6]
    return found


def example(item: int, *positives: int, interacted: tuple[int, ...] = (), **more: Any) -> Example:
    return Example("u", item, ("one", "two"), positives, interacted or (item,), **more)


def test_info_nce_by_hand() -> None:
    """Similarities 1 and 0 at temperature 1/2: -log(e^2 / (e^2 + 1))."""
    users = torch.tensor([[1.0, 0.0]])
    personas = torch.eye(2)
    loss = info_nce(users, personas, torch.zeros(1, 2), torch.tensor([[True, False]]), 0.5)
    assert loss.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 1)))
    halved = torch.tensor([[0.0, math.log(0.5)]])
    loss = info_nce(users, personas, halved, torch.tensor([[True, False]]), 0.5)
    assert loss.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 0.5)), abs=1e-6)
    both = info_nce(users, personas, torch.zeros(1, 2), torch.tensor([[True, True]]), 0.5)
    assert both.item() == pytest.approx(0, abs=1e-6)


def weights(catalogue: Catalogue, examples: list[Example], **training: Any) -> list[list[float]]:
    settings = TrainingSettings(**training)
    batch = Collator(catalogue, DECAY, siblings=settings.sibling_weight > 0)(examples)
    found = log_weights(batch, batch["personas"], batch["persona_items"], settings).exp()
    return [
        [
            row[batch["personas"].tolist().index(one)] if one in batch["personas"] else -1.0
            for one in range(6)
        ]
        for row in found.tolist()
    ]


def test_another_persona_of_the_item_is_masked_or_weighed(catalogue: Catalogue) -> None:
    rows = [example(0, 0), example(0, 1), example(1, 2)]
    assert weights(catalogue, rows) == [
        [1, 0, 1, -1, -1, -1],
        [0, 1, 1, -1, -1, -1],
        [1, 1, 1, -1, -1, -1],
    ]
    weighed = weights(catalogue, rows, sibling_weight=0.25)
    assert weighed[0] == pytest.approx([1, 0.25, 1, 1, -1, -1])
    assert weighed[2] == pytest.approx([1, 1, 1, 0.25, -1, -1])


def test_items_the_user_has_interacted_with_are_masked(catalogue: Catalogue) -> None:
    rows = [example(0, 0, interacted=(0, 2)), example(2, 4), example(1, 2)]
    assert weights(catalogue, rows)[0] == [1, -1, 1, -1, 0, -1]
    assert weights(catalogue, rows, mask_interacted=False)[0] == [1, -1, 1, -1, 1, -1]


def test_hard_negatives_and_several_positives(catalogue: Catalogue) -> None:
    rows = [example(0, 0, 1, negatives=(4, 5))]
    assert weights(catalogue, rows) == [[1, 1, -1, -1, 1, 1]]


def test_a_persona_that_is_there_twice_counts_once(catalogue: Catalogue) -> None:
    """As it is when two processes have the same one: here by hand."""
    batch = Collator(catalogue, DECAY, siblings=False)([example(0, 0), example(1, 2)])
    personas = torch.tensor([0, 2, 0, -1])
    items = torch.tensor([0, 1, 0, -1])
    found = log_weights(batch, personas, items, TrainingSettings()).exp()
    assert found.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_the_loss_of_a_batch_by_numpy(catalogue: Catalogue) -> None:
    """The user side is that of the serving code: to 1e-5."""
    encoder = HashEncoder()
    histories = [
        [Interaction("x", 3, title="tea and toast"), Interaction("y", 2, title="rain")],
        [Interaction("z", 1, title="toast"), Interaction("x", 3, title="tea and toast")],
    ]
    served = encoder.user_vectors(histories, length=10, decay=DECAY)
    rows = [
        Example("u0", 0, ("tea and toast", "rain"), (1,), (0,), weight=1.0),
        Example("u1", 1, ("tea and toast", "toast"), (2,), (1,), weight=3.0),
    ]
    assert rows[0].texts == tuple(interaction_text(one) for one in histories[0])
    batch = Collator(catalogue, DECAY, siblings=False)(rows)
    embeddings = torch.from_numpy(encoder.encode_texts(batch["texts"]))
    users = torch.nn.functional.normalize(batch["user_weights"] @ embeddings, dim=-1)
    assert users.numpy() == pytest.approx(np.stack([one.vector for one in served if one]), abs=1e-5)
    personas = encoder.encode_texts([catalogue.texts[1], catalogue.texts[2]])
    scores = np.stack([one.vector for one in served if one]) @ personas.T / 0.1
    each = np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)
    found = batch_loss(batch, embeddings, TrainingSettings(temperature=0.1))
    assert found.item() == pytest.approx((each[0] + 3 * each[1]) / 4, abs=1e-5)


def test_a_text_that_is_repeated_keeps_both_weights(catalogue: Catalogue) -> None:
    rows = [Example("u", 0, ("same", "other", "same"), (0,), (0,)), example(1, 2)]
    batch = Collator(catalogue, 0.5, siblings=False)(rows)
    assert batch["user_weights"][0, batch["texts"].index("same")].item() == pytest.approx(1.25)
