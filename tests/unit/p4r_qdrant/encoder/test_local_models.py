"""Models and adapters as people have them: what changes vectors changes the fingerprint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("peft")

from p4r_qdrant import PersonaEncoder
from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, RECORD
from p4r_qdrant.encoder.fingerprint import same_encoder, weights_fingerprint
from p4r_qdrant.errors import EncoderError, P4RError, SettingsError
from tests.support.tiny_model import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = ["salt and bread", "The sea at night"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "salt bread sea night and the at")


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> PersonaEncoder:
    return PersonaEncoder(str(tiny))


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "copy")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def sentence(caught: pytest.ExceptionInfo[P4RError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# --- the fingerprint ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", lambda it: it.update(hidden_act="relu")),
        ("config.json", lambda it: it.update(layer_norm_eps=1e-5)),
        ("tokenizer.json", lambda it: it.update(normalizer=None)),
        ("1_Pooling/config.json", lambda it: it.update(pooling_mode="max")),
        ("1_Pooling/config.json", lambda it: it.update(include_prompt=False)),
        (
            "config_sentence_transformers.json",
            lambda it: it.update(prompts={"q": "salt: "}, default_prompt_name="q"),
        ),
    ],
)
def test_what_a_file_changes_the_fingerprint_tells(
    encoder: PersonaEncoder, copied: Path, file: str, change: Callable[[Any], None]
) -> None:
    edit(copied / file, change)
    assert not same_encoder(PersonaEncoder(str(copied)).fingerprint, encoder.fingerprint)


def test_a_copy_is_the_same_encoder(encoder: PersonaEncoder, copied: Path) -> None:
    edit(copied / "config.json", lambda it: it.update(transformers_version="9", _name_or_path="x"))
    (copied / "README.md").write_text("What it is good for.")
    (copied / "trainer_state.json").write_text("{}")
    assert PersonaEncoder(str(copied), dtype="bfloat16").fingerprint == encoder.fingerprint


def test_prompts_are_before_the_texts_and_in_the_fingerprint(
    encoder: PersonaEncoder, tiny: Path
) -> None:
    asked = PersonaEncoder(str(tiny), query_prompt="salt: ", document_prompt="bread: ")
    prompted = encoder.encode_texts([f"salt: {text}" for text in TEXTS])
    np.testing.assert_allclose(asked.encode_queries(TEXTS), prompted, atol=1e-5)
    prompted = encoder.encode_texts([f"bread: {text}" for text in TEXTS])
    np.testing.assert_allclose(asked.encode_documents(TEXTS), prompted, atol=1e-5)
    for other in (encoder, PersonaEncoder(str(tiny), query_prompt="salt: ")):
        assert not same_encoder(asked.fingerprint, other.fingerprint)


def test_prompts_of_the_settings_replace_the_default_of_the_model(copied: Path) -> None:
    edit(
        copied / "config_sentence_transformers.json",
        lambda it: it.update(prompts={"q": "sea "}, default_prompt_name="q"),
    )
    own = PersonaEncoder(str(copied), query_prompt="sea ")
    default = PersonaEncoder(str(copied))
    np.testing.assert_allclose(own.encode_queries(TEXTS), default.encode_queries(TEXTS), atol=1e-5)


# --- models that cannot be used -------------------------------------------------------------------


def test_a_model_that_cannot_read_is_refused(copied: Path) -> None:
    edit(
        copied / "tokenizer.json",
        lambda it: it["model"].update(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}),
    )
    with pytest.raises(EncoderError, match="gives different texts the same vector"):
        PersonaEncoder(str(copied))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("modules.json", lambda it: it[1].update(type="sentence_transformers.models.Newer")),
        ("config.json", lambda it: it.update(hidden_size="wide")),
        ("config.json", lambda it: it.update(hidden_size=64)),
        ("config.json", lambda it: it.update(model_type="newer")),
        ("1_Pooling/config.json", lambda it: it.clear()),
        ("tokenizer.json", lambda it: it.update(model=7)),
    ],
)
def test_whatever_a_library_raises_is_one_sentence(
    copied: Path, file: str, change: Callable[[Any], None]
) -> None:
    edit(copied / file, change)
    with pytest.raises(EncoderError) as caught:
        PersonaEncoder(str(copied))
    assert "P4R_ENCODER__MODEL" in sentence(caught)


def test_weights_that_are_nan_are_refused(copied: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * np.nan for name, tensor in tensors.items()}, weights)
    with pytest.raises(EncoderError, match="NaN or infinite"):
        PersonaEncoder(str(copied))


def test_code_of_a_model_does_not_run_unless_it_may(copied: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copied / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from sentence_transformers.sentence_transformer.modules import Pooling as Own\n"
    )
    edit(copied / "modules.json", lambda it: it[1].update(type="own.Own"))
    with pytest.raises(EncoderError, match="P4R_ENCODER__ALLOW_MODEL_CODE"):
        PersonaEncoder(str(copied))
    assert not ran.exists()
    PersonaEncoder(str(copied), allow_model_code=True)
    assert ran.exists()


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "cpu,foo", ","])
def test_a_device_that_is_not_there_is_the_users_mistake(device: str) -> None:
    with pytest.raises(SettingsError, match="P4R_ENCODER__DEVICE"):
        PersonaEncoder("nothing is loaded before", device=device)


@pytest.mark.parametrize("model", ["./nothere", "/nothere/at/all", "~/nothere"])
def test_a_folder_that_is_not_there_is_the_users_mistake(model: str) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        PersonaEncoder(model)


def test_without_a_hub_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(EncoderError) as caught:
        PersonaEncoder("nobody/nothing")
    said = sentence(caught)
    assert "'nobody/nothing' is not on this machine" in said
    assert "all-MiniLM-L6-v2" in said


# --- adapters ------------------------------------------------------------------------------------


def adapter(tiny: Path, folder: Path, config: Any) -> Path:
    """An adapter that was trained a little."""
    import torch
    from peft import get_peft_model
    from sentence_transformers import SentenceTransformer

    transformer: Any = SentenceTransformer(str(tiny), device="cpu")[0]
    adapted = get_peft_model(transformer.auto_model, config)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"rank_pattern": {"query": 2}, "alpha_pattern": {"query": 4}},
        {"use_rslora": True, "bias": "all"},
        {"modules_to_save": ["output.dense"]},
    ],
)
def test_what_peft_can_merge_is_merged(
    encoder: PersonaEncoder, tiny: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    import torch
    from peft import LoraConfig, PeftModel

    config = LoraConfig(r=4, target_modules=["query", "value"], **options)
    served = PersonaEncoder(str(tiny), adapter=str(adapter(tiny, tmp_path / "a", config)))
    assert not same_encoder(served.fingerprint, encoder.fingerprint)
    by_peft = PersonaEncoder(str(tiny)).sentence_transformer
    transformer: Any = by_peft[0]
    transformer.auto_model = PeftModel.from_pretrained(transformer.auto_model, tmp_path / "a")
    with torch.no_grad():
        expected = by_peft.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(served.encode_texts(TEXTS), expected, atol=1e-5)
    assert np.abs(expected - encoder.encode_texts(TEXTS)).max() > 1e-3


def test_an_adapter_that_cannot_be_merged_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, TaskType

    config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=2)
    folder = adapter(tiny, tmp_path / "a", config)
    with pytest.raises(EncoderError) as caught:
        PersonaEncoder(str(tiny), adapter=str(folder))
    assert "PROMPT_TUNING, which peft cannot merge" in sentence(caught)


@pytest.mark.parametrize("names", ["*query", ["nothing"], 7])
def test_an_adapter_with_wrong_names_is_one_sentence(
    tiny: Path, tmp_path: Path, names: Any
) -> None:
    from peft import LoraConfig

    folder = adapter(tiny, tmp_path / "a", LoraConfig(r=4, target_modules=["query"]))
    edit(folder / ADAPTER_CONFIG, lambda it: it.update(target_modules=names))
    with pytest.raises(EncoderError) as caught:
        PersonaEncoder(str(tiny), adapter=str(folder))
    assert "does not fit" in sentence(caught)


def test_an_adapter_folder_that_is_not_there_is_the_users_mistake(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=f"there is no adapter folder {tmp_path}/nothere"):
        PersonaEncoder(str(tiny), adapter=str(tmp_path / "nothere"))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_model.safetensors", None, "holds no adapter_model.safetensors"),
        ("adapter_model.safetensors", b"xx", "does not fit"),
        (ADAPTER_CONFIG, b"{", "does not fit"),
        (ADAPTER_CONFIG, b"[]", "does not fit"),
        (ADAPTER_CONFIG, b'{"peft_type": "NEWER"}', "does not fit"),
        ("p4r.json", b"{", "p4r.json cannot be read (Invalid JSON"),
    ],
)
def test_a_broken_adapter_is_one_sentence(
    tiny: Path, tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    from peft import LoraConfig

    folder = adapter(tiny, tmp_path / "a", LoraConfig(r=4, target_modules=["query"]))
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises((EncoderError, SettingsError)) as caught:
        PersonaEncoder(str(tiny), adapter=str(folder))
    assert said in sentence(caught)


def test_a_pickled_adapter_does_not_run(tiny: Path, tmp_path: Path) -> None:
    import pickle

    from peft import LoraConfig

    folder = adapter(tiny, tmp_path / "a", LoraConfig(r=4, target_modules=["query"]))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(print))
    with pytest.raises(EncoderError) as caught:
        PersonaEncoder(str(tiny), adapter=str(folder))
    assert "weights_only" not in sentence(caught), "advice that would run it"


# --- lengths -------------------------------------------------------------------------------------


def test_long_texts_keep_the_users_own_words_and_are_counted(
    encoder: PersonaEncoder, tiny: Path
) -> None:
    limited = PersonaEncoder(str(tiny), max_tokens=24)
    assert limited.lengths is not None
    long = "sea " * 60 + "night"
    read = limited.query_inputs([f"{long}\nquality: salt bread", "sea\nquality: salt"])
    assert read[0].endswith("\nquality: salt bread")
    assert read[0].startswith("sea sea sea")
    assert len(limited.sentence_transformer.tokenizer(read[0])["input_ids"]) <= 24
    assert read[1] == "sea\nquality: salt"
    limited.document_inputs([long, "salt", "bread"])
    assert [one.split(" are longer")[0] for one in limited.lengths.said()] == [
        "1 of 3 texts of personas",
        "1 of 2 texts of histories",
    ]
    assert not same_encoder(limited.fingerprint, encoder.fingerprint)


def test_prompts_that_a_model_has_and_nobody_uses_are_told(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(
        copied / "config_sentence_transformers.json",
        lambda it: it.update(prompts={"query": "query: ", "document": ""}),
    )
    PersonaEncoder(str(copied))
    assert "of which none is used: query='query: '; see P4R_ENCODER__QUERY_PROMPT" in caplog.text
    caplog.clear()
    PersonaEncoder(str(copied), query_prompt="query: ")
    assert "none is used" not in caplog.text


def test_an_adapter_of_an_earlier_version_still_finds_its_base(
    encoder: PersonaEncoder, tiny: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    folder = adapter(tiny, tmp_path / "a", LoraConfig(r=4, target_modules=["query"]))
    record = {
        "base": "tiny",
        "run": "r",
        "data_hash": "d",
        "examples": 1,
        "settings": {},
        "validation": "",
        "metrics": {},
        "created_at": "",
    }
    for own in (encoder.fingerprint, weights_fingerprint(encoder.sentence_transformer)):
        (folder / RECORD).write_text(json.dumps(record | {"base_fingerprint": own}))
        assert PersonaEncoder(str(tiny), adapter=str(folder)).fingerprint != encoder.fingerprint
    (folder / RECORD).write_text(json.dumps(record | {"base_fingerprint": "0" * 16}))
    with pytest.raises(EncoderError, match="was trained on tiny"):
        PersonaEncoder(str(tiny), adapter=str(folder))
