"""Gradient caching: a batch in pieces has the gradients of one big batch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")

from indexer.training import tower as module  # noqa: E402
from indexer.training.batches import Collator  # noqa: E402
from indexer.training.loss import batch_loss  # noqa: E402
from indexer.training.pairs import Catalogue, Example  # noqa: E402
from indexer.training.tower import Tower, TowerEncoder  # noqa: E402
from p4r_qdrant import Interaction, PersonaEncoder  # noqa: E402
from p4r_qdrant.encoder.user_vector import history_texts  # noqa: E402
from p4r_qdrant.errors import EncoderError, InputError  # noqa: E402
from p4r_qdrant.settings import TrainingSettings  # noqa: E402
from tests.support.tiny_model import save_tiny_model  # noqa: E402

WORDS = "tea toast rain bread sea night train ring lamp orchard salt moth hedge pan"
N = 72


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny"), WORDS))


def tower(model: str, **training: Any) -> Tower:
    torch.manual_seed(1)
    found = module.tower(PersonaEncoder(model), TrainingSettings(**training))
    for name, one in found.named_parameters():
        if "lora_B" in name:  # they begin with zeros, and then nothing reaches lora_A
            torch.nn.init.normal_(one, std=0.3)
    return found


def batch() -> Any:
    """72 users, as in the paper."""
    draw = np.random.default_rng(0)
    words = WORDS.split()
    texts = [" ".join(draw.choice(words, draw.integers(1, 30))) for _ in range(N * 4)]
    catalogue = Catalogue({str(item): item for item in range(N)})
    catalogue.texts = texts[:N]
    catalogue.item_of = list(range(N))
    catalogue.starts = list(range(N + 1))
    examples = [
        Example(
            "u", item, tuple(texts[N + item * 3 : N + item * 3 + 1 + item % 3]), (item,), (item,)
        )
        for item in range(N)
    ]
    return Collator(catalogue, 0.85, siblings=False)(examples)


def gradients(trained: Tower, seed: int = 0, *, dropout: bool = True) -> tuple[float, Any]:
    trained.train(dropout)
    torch.manual_seed(seed)
    one = batch()
    loss = batch_loss(one, trained(one["texts"]), TrainingSettings())
    loss.backward()  # type: ignore[no-untyped-call]
    rows = [value.grad.flatten() for value in trained.parameters() if value.grad is not None]
    return loss.item(), torch.cat(rows).numpy()


def test_pieces_of_a_batch_have_the_gradients_of_the_batch(model: str) -> None:
    loss, whole = gradients(tower(model, micro_batch_size=10_000), dropout=False)
    in_pieces, pieces = gradients(tower(model, micro_batch_size=7), dropout=False)
    assert in_pieces == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-6)
    assert np.abs(whole).max() > 1e-2
    assert (whole != 0).mean() > 0.9


def test_the_way_back_meets_the_same_dropout(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = gradients(tower(model, micro_batch_size=7))
    other = gradients(tower(model, micro_batch_size=7), seed=1)
    assert abs(other[0] - cached[0]) > 1e-4  # there is dropout

    def directly(embed: Callable[..., Any], features: Any, **_: Any) -> Any:
        return embed(features)

    monkeypatch.setattr(module, "checkpoint", directly)
    loss, kept = gradients(tower(model, micro_batch_size=7))
    assert loss == pytest.approx(cached[0], rel=1e-6)
    np.testing.assert_allclose(cached[1], kept, rtol=1e-4, atol=1e-6)


def test_memory_is_that_of_a_piece(model: str) -> None:
    """What autograd keeps of the forward pass: little more than the embeddings."""

    def kept(micro_batch_size: int) -> int:
        sizes: list[int] = []

        def pack(tensor: Any) -> Any:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tower(model, micro_batch_size=micro_batch_size)(batch()["texts"])
        return sum(sizes)

    assert kept(7) < 0.05 * kept(10_000)


def test_training_and_serving_have_the_same_user_vector(model: str) -> None:
    """Eq. 6 and 7 on both sides, to 1e-5: normalised texts, decayed mean, normalised again."""
    histories = [
        [
            Interaction(f"i{one}", one, summary=f"{WORDS.split()[one]} sea", aspects={"x": "tea"})
            for one in range(user, user + 4)
        ]
        for user in range(5)
    ]
    encoder = PersonaEncoder(model)
    served = encoder.user_vectors(histories, length=3, decay=0.6)
    catalogue = Catalogue({"a": 0}, ["p"], ["salt"], [0], [0, 1])
    examples = [
        Example("u", 0, tuple(text for _, text in history_texts(history, 3)), (0,), (0,))
        for history in histories
    ]
    one = Collator(catalogue, 0.6, siblings=False)(examples)
    untrained = Tower(PersonaEncoder(model), TrainingSettings(micro_batch_size=4)).eval()
    embeddings = untrained(one["texts"])
    users = torch.nn.functional.normalize(one["user_weights"] @ embeddings, dim=-1)
    expected = np.stack([user.vector for user in served if user is not None])
    assert users.detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_the_tower_is_an_encoder(model: str) -> None:
    encoder = TowerEncoder(Tower(PersonaEncoder(model), TrainingSettings()))
    served = PersonaEncoder(model)
    texts = ["tea and toast", "rain"]
    assert encoder.encode_texts(texts) == pytest.approx(served.encode_texts(texts), abs=1e-6)
    assert encoder.dimension == served.dimension


def test_training_reads_what_serving_reads(model: str, tmp_path: Path) -> None:
    prompts = {"query_prompt": "tea ", "document_prompt": "rain ", "max_tokens": 16}
    base = PersonaEncoder(model, **prompts)  # type: ignore[arg-type]
    long = f"{'sea ' * 30}\nquality: salt"
    catalogue = Catalogue({"a": 0}, ["p"], ["salt"], [0], [0, 1])
    example = Example("u", 0, ("toast", long), (0,), (0,))
    batch = Collator(catalogue, 0.6, siblings=False, encoder=base)([example])
    assert batch["texts"] == [*base.query_inputs(["toast", long]), "rain salt"]
    assert batch["texts"][1].endswith("\nquality: salt")
    trained = TowerEncoder(Tower(PersonaEncoder(model, **prompts), TrainingSettings()))  # type: ignore[arg-type]
    for one in ("encode_queries", "encode_documents"):
        served = getattr(base, one)(["tea and toast", long])
        assert getattr(trained, one)(["tea and toast", long]) == pytest.approx(served, abs=1e-6)
    assert trained.encode_queries([]).shape == (0, 32)
    # The default prompt of a model counts in training too.
    shutil.copytree(model, tmp_path / "m")
    config = tmp_path / "m" / "config_sentence_transformers.json"
    said = json.loads(config.read_text()) | {"prompts": {"q": "tea "}, "default_prompt_name": "q"}
    config.write_text(json.dumps(said))
    prompted = PersonaEncoder(str(tmp_path / "m"))
    tower = TowerEncoder(Tower(PersonaEncoder(str(tmp_path / "m")), TrainingSettings()))
    served = prompted.encode_texts(["toast"])
    assert tower.encode_texts(["toast"]) == pytest.approx(served, abs=1e-6)
    assert np.abs(served - PersonaEncoder(model).encode_texts(["toast"])).max() > 1e-3


def test_only_the_last_layers_learn(model: str) -> None:
    trained = Tower(
        PersonaEncoder(model),
        TrainingSettings(lora_layers=1, target_modules="query, dense"),
    )
    learning = [name for name, one in trained.named_parameters() if one.requires_grad]
    assert learning
    assert all("layer.1." in name and "lora_" in name for name in learning)
    assert not any("pooler" in name for name in learning)


def test_layers_that_are_not_there_are_one_sentence(model: str) -> None:
    with pytest.raises(InputError, match="P4R_TRAINING__TARGET_MODULES"):
        Tower(
            PersonaEncoder(model),
            TrainingSettings(target_modules="nope, neither"),
        )


@pytest.mark.parametrize("target_modules", [None, "query,dense", "all-linear", "head"])
def test_an_adapter_goes_to_disk_and_back(
    target_modules: str | None, model: str, tmp_path: Path
) -> None:
    trained = tower(model, target_modules=target_modules)
    trained.save_adapter(tmp_path)
    training = TrainingSettings(target_modules=target_modules)
    other = module.tower(PersonaEncoder(model), training)
    other.load_adapter(tmp_path)
    served = PersonaEncoder(model, adapter=str(tmp_path))
    expected = trained.eval()(["salt sea"]).detach().numpy()
    assert other.eval()(["salt sea"]).detach().numpy() == pytest.approx(expected, abs=1e-6)
    assert served.encode_texts(["salt sea"]) == pytest.approx(expected, abs=1e-5)
    assert np.abs(PersonaEncoder(model).encode_texts(["salt sea"]) - expected).max() > 1e-3


def test_with_a_head_each_text_is_encoded_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tower(model, target_modules="head", micro_batch_size=2)
    encoded: list[int] = []
    embed = Tower._embed

    def counted(self: Tower, features: dict[str, Any]) -> Any:
        encoded.append(len(features["input_ids"]))
        return embed(self, features)

    monkeypatch.setattr(Tower, "_embed", counted)
    trained.train()
    trained(["tea", "rain", "salt"])
    assert encoded == [2, 1]
    one = trained(["salt", "sea", "salt"])
    assert encoded == [2, 1, 1]
    one.sum().backward()
    learning = [name for name, value in trained.named_parameters() if value.grad is not None]
    assert learning
    assert all("lora_" in name for name in learning)


def test_a_head_that_was_not_trained_is_refused(model: str, tmp_path: Path) -> None:
    untrained = module.tower(PersonaEncoder(model), TrainingSettings(target_modules="head"))
    untrained.save_adapter(tmp_path)
    with pytest.raises(EncoderError, match="changes nothing"):
        PersonaEncoder(model, adapter=str(tmp_path))
