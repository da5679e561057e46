"""The encoder in ONNX Runtime: vectors, fingerprints, the folder of exports."""

import importlib.util
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from p4r_qdrant import PersonaEncoder
from p4r_qdrant.encoder import onnx_runtime
from p4r_qdrant.encoder.fingerprint import same_encoder, weights_hash
from p4r_qdrant.errors import EncoderError, IndexMismatchError, MissingExtraError, SettingsError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.live.loading import encoder_for_index
from p4r_qdrant.settings import EncoderSettings
from tests.support.tiny_model import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = ["salt", "the sea at night " * 9, "salt and bread", "bread at the sea", ""]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "salt bread sea night and the at")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def torch_encoder(tiny: Path) -> PersonaEncoder:
    return PersonaEncoder(str(tiny), device="cpu")


@pytest.fixture(scope="module")
def int8(tiny: Path, exports: Path) -> PersonaEncoder:
    return PersonaEncoder(str(tiny), backend="onnx-int8", onnx_folder=str(exports))


def cosines(one: PersonaEncoder, other: PersonaEncoder) -> np.ndarray:
    cosine: np.ndarray = (one.encode_texts(TEXTS) * other.encode_texts(TEXTS)).sum(axis=1)
    return cosine


def test_int8_is_another_encoder(int8: PersonaEncoder, torch_encoder: PersonaEncoder) -> None:
    assert not same_encoder(int8.fingerprint, torch_encoder.fingerprint)
    assert int8.options == {"backend": "onnx-int8"}
    assert cosines(int8, torch_encoder).min() > 1 - int8.tolerance
    assert not np.array_equal(int8.encode_texts(TEXTS), torch_encoder.encode_texts(TEXTS))


def test_products_that_narrow_stay_float32(int8: PersonaEncoder, exports: Path) -> None:
    del int8  # it has made the export
    [path] = exports.glob("*/model.onnx")
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    weights = [(one.op_type, shapes.get(one.input[1])) for one in graph.node if len(one.input) > 1]
    assert [shape for kind, shape in weights if kind == "MatMul" and shape] == [(64, 32)] * 2
    assert {shape for kind, shape in weights if kind == "MatMulInteger"} == {(32, 32), (32, 64)}


def test_the_vector_of_a_text_does_not_depend_on_its_batch(int8: PersonaEncoder) -> None:
    alone = np.concatenate([int8.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, int8.encode_texts(TEXTS), atol=1e-6)


def test_histories_are_cut_to_the_length_that_torch_reads(
    int8: PersonaEncoder, torch_encoder: PersonaEncoder
) -> None:
    assert int8.lengths is not None
    assert torch_encoder.lengths is not None
    assert int8.lengths.limit == torch_encoder.lengths.limit
    found = int8.encode_queries(TEXTS) * torch_encoder.encode_queries(TEXTS)
    assert found.sum(axis=1).min() > 1 - int8.tolerance


def test_the_adapter_is_in_what_is_exported(
    tiny: Path, exports: Path, int8: PersonaEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    trained: Any = PersonaEncoder(str(tiny), device="cpu").sentence_transformer[0]
    config = LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(trained.auto_model, config).save_pretrained(str(tmp_path / "lora"))
    adapted: Any = PersonaEncoder(str(tiny), adapter=str(tmp_path / "lora"), device="cpu")
    merged = weights_hash(adapted.sentence_transformer[0].auto_model)
    exported = []

    def export(transformer: Any, inputs: Any, place: Path) -> None:
        exported.append(weights_hash(transformer.auto_model))
        raise EncoderError("seen")

    monkeypatch.setattr(onnx_runtime, "_export", export)
    with pytest.raises(EncoderError, match="seen"):
        PersonaEncoder(
            str(tiny),
            adapter=str(tmp_path / "lora"),
            backend="onnx-int8",
            onnx_folder=str(exports),
        )
    assert exported == [merged]


def test_an_index_is_queried_with_the_backend_that_made_it(
    tiny: Path, exports: Path, int8: PersonaEncoder, torch_encoder: PersonaEncoder
) -> None:
    made_with = IndexMetadata.of(int8)
    unsaid = EncoderSettings(onnx_folder=str(exports))
    assert encoder_for_index(unsaid, made_with).fingerprint == int8.fingerprint
    said = EncoderSettings(model=str(tiny), backend="torch", device="cpu")
    found = encoder_for_index(said, made_with)
    with pytest.raises(IndexMismatchError):
        made_with.check(found.dimension, found.fingerprint, "the index")


def test_a_second_start_exports_nothing(
    tiny: Path, exports: Path, int8: PersonaEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "_export", pytest.fail)
    again = PersonaEncoder(str(tiny), backend="onnx-int8", onnx_folder=str(exports))
    np.testing.assert_array_equal(again.encode_texts(TEXTS), int8.encode_texts(TEXTS))
    assert not [path for path in exports.iterdir() if path.suffix == ".part"]


def test_an_encoder_in_onnx_is_not_trained(int8: PersonaEncoder) -> None:
    with pytest.raises(SettingsError, match="P4R_ENCODER__BACKEND=torch"):
        _ = int8.sentence_transformer


def test_without_the_extra_the_error_names_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[encoder,onnx\]"):
        PersonaEncoder(str(tiny), backend="onnx-int8")


# --- the folder of exports ------------------------------------------------------------------------


def test_of_two_at_once_one_exports(tmp_path: Path) -> None:
    written = []
    together = threading.Barrier(2)

    def write(part: Path) -> None:
        (part / "model.onnx").write_text("whole")
        written.append(part)
        assert not (tmp_path / "key").exists()

    def start() -> None:
        together.wait()
        assert (onnx_runtime._made_once(tmp_path / "key", write) / "model.onnx").is_file()

    threads = [threading.Thread(target=start) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(written) == 1
    assert (tmp_path / "key" / "model.onnx").read_text() == "whole"


def test_what_a_killed_process_left_is_exported_again(tmp_path: Path) -> None:
    left = tmp_path / "key.part"
    left.mkdir()
    (left / "model.onnx.data").write_text("half")

    def write(part: Path) -> None:
        (part / "model.onnx").write_text("whole")

    made = onnx_runtime._made_once(tmp_path / "key", write)
    assert [path.name for path in made.iterdir()] == ["model.onnx"]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        (part / "model.onnx").write_text("half")
        raise EncoderError("no")

    with pytest.raises(EncoderError):
        onnx_runtime._made_once(tmp_path / "key", write)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="P4R_ENCODER__ONNX_FOLDER"):
        PersonaEncoder(str(tiny), backend="onnx-int8", onnx_folder=str(tmp_path / "file"))


def test_a_damaged_export_is_one_sentence(
    tiny: Path, exports: Path, int8: PersonaEncoder, tmp_path: Path
) -> None:
    copied = shutil.copytree(exports, tmp_path / "exports")
    for path in copied.rglob("model.onnx"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EncoderError, match="delete that folder"):
        PersonaEncoder(str(tiny), backend="onnx-int8", onnx_folder=str(copied))


def test_an_export_that_makes_other_vectors_is_refused(
    tiny: Path, exports: Path, int8: PersonaEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_runtime._InOnnx.forward

    def damaged(self: Any, **features: Any) -> Any:
        found = whole(self, **features)
        found.last_hidden_state = found.last_hidden_state.flip(-1)
        return found

    monkeypatch.setattr(onnx_runtime._InOnnx, "forward", damaged)
    with pytest.raises(EncoderError, match="other vectors in the backend onnx-int8 than in torch"):
        PersonaEncoder(str(tiny), backend="onnx-int8", onnx_folder=str(exports))


def test_a_model_without_a_transformer_is_refused(tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)])
    model.save(str(tmp_path / "static"))
    with pytest.raises(EncoderError, match="not a transformer that reads texts"):
        PersonaEncoder(str(tmp_path / "static"), backend="onnx-int8", onnx_folder=str(tmp_path))
