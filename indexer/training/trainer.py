"""Train the encoder: LoRA layers on the base, with the Trainer of transformers (Eq. 9).

Trainer provides epochs, optimizer, schedule, checkpoints, resuming, bf16 and several processes.
This module adds the loss, the validation, and the handling of full memory and full disks.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from indexer.training.batches import Collator
from indexer.training.loss import Batch, batch_loss, processes
from indexer.training.pairs import Pairs
from indexer.training.tower import Tower, TowerEncoder
from indexer.training.validation import Validation
from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from p4r_qdrant.errors import InputError, P4RError, StorageFullError
from p4r_qdrant.settings import EncoderSettings, Settings

MOST_LOGS = 500
"""Points of a loss curve."""

STATE = "trainer_state.json"
"""Written last: a checkpoint without it is incomplete."""
_PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")
"""Other files of a checkpoint. Trainer resets the state of a missing one without a warning."""

_log = logging.getLogger(__name__)


class TrainingError(P4RError):
    """Training cannot go on: the loss is not finite, or one text does not fit into memory."""


class PersonaTrainer(Trainer):
    """Trains a tower on pairs and validates it after each epoch by reranking."""

    control: TrainerControl

    def __init__(
        self,
        tower: Tower,
        pairs: Pairs,
        validation: Validation,
        arguments: TrainingArguments,
        settings: Settings,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._tower = tower
        self._folder = Path(str(arguments.output_dir))
        self._validation = validation
        self._settings = settings
        training = settings.training
        siblings = training.sibling_weight > 0
        collator: Any = Collator(
            pairs.catalogue, settings.history.decay, siblings=siblings, encoder=tower.base
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, to itself
            super().__init__(
                model=tower,
                args=arguments,
                train_dataset=pairs.examples,
                eval_dataset=validation.cases,
                data_collator=collator,
                callbacks=[
                    *callbacks,
                    _MoreCheckpoints(training.checkpoint_steps),
                    EarlyStoppingCallback(training.patience),
                ],
            )

        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Tensor:
        """The loss of one batch (Eq. 9)."""
        embeddings = model(inputs["texts"])
        with torch.autocast(embeddings.device.type, enabled=False):
            return batch_loss(cast("Batch", inputs), embeddings, self._settings.training)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Train on one batch; out of memory, repeat it in smaller micro-batches, same dropout."""
        while True:
            dropout = _random_state()
            try:
                loss = super().training_step(model, inputs, num_items_in_batch)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                self._halve(error)
                model.zero_grad()
                _set_random_state(dropout)
            else:
                self._check(loss, inputs)
                return loss

    def _halve(self, error: RuntimeError) -> None:
        """Encode half as many texts at once from now on; the batch size does not change."""
        size = self._tower.micro_batch_size
        if size == 1 or processes() > 1:  # others wait in a collective call
            smaller = "1" if size == 1 else f"{size // 2} or less"
            raise TrainingError(
                f"out of memory with {size} texts at once on {self.args.device}; set "
                f"P4R_TRAINING__MICRO_BATCH_SIZE={smaller} or a smaller model"
            ) from error
        self._tower.micro_batch_size = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _check(self, loss: Tensor, batch: dict[str, Any]) -> None:
        """Raise TrainingError before a step if the loss or a gradient is not finite."""
        gradients = [one.grad for one in self._tower.parameters() if one.grad is not None]
        if torch.isfinite(loss) and all(bool(torch.isfinite(one).all()) for one in gradients):
            return
        kept = last_checkpoint(self._folder)
        users = ", ".join(batch["users"][:3])
        raise TrainingError(
            f"the loss is not finite in step {self.state.global_step + 1} of "
            f"{self.state.max_steps} (epoch {math.floor(self.state.epoch or 0) + 1}, a batch of "
            f"{len(batch['users'])} users: {users} ...); "
            + (f"the last good checkpoint is {kept}; " if kept else "there is no checkpoint yet; ")
            + "lower P4R_TRAINING__LEARNING_RATE or raise P4R_TRAINING__TEMPERATURE"
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Metrics on the validation items, measured by the first process and sent to all."""
        measured: list[dict[str, float] | None] = [None]
        if self.is_world_process_zero():
            history = self._settings.history
            with torch.autocast(
                self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16
            ):
                encoder = TowerEncoder(self._tower)
                found = self._validation.measure(encoder, history.length, history.decay)
            measured = [{"eval_ndcg": found.ndcg, "eval_mrr": found.mrr}]
        broadcast_object_list(measured)
        metrics = measured[0] or {}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # --- checkpoints of the LoRA layers, in the format that PersonaEncoder reads ---------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        if self.args.should_save:
            self._tower.save_adapter(Path(output_dir or self._folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self._tower.load_adapter(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._tower.load_adapter(best_checkpoint(self._folder))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not _is_full(error, self._folder):
                raise
            half = self._folder / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(half, ignore_errors=True)
            raise StorageFullError(
                f"no space left for a checkpoint in {self._folder}; make room and run it again: "
                "it goes on from the last whole checkpoint"
            ) from None


class _MoreCheckpoints(TrainerCallback):
    """Saves a checkpoint every `every` steps, for long epochs.

    It saves none at the end of an epoch: Trainer saves that one after the validation. A run that
    resumed from an earlier checkpoint of the same step would skip the validation.
    """

    def __init__(self, every: int | None) -> None:
        self._every = every

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        ends_epoch = state.global_step % (state.max_steps // int(args.num_train_epochs)) == 0
        if self._every and state.global_step % self._every == 0 and not ends_epoch:
            control.should_save = True


def training_arguments(
    folder: Path, examples: int, settings: Settings, *, tensorboard: Path | None = None
) -> TrainingArguments:
    """Trainer's arguments for a number of examples, with checkpoints in `folder`.

    Raises InputError if the batch size is not a multiple of the number of processes, or if
    training is not possible on the device.
    """
    training = settings.training
    device = _device(settings.encoder)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % world:
        raise InputError(
            f"a batch of {training.batch_size} cannot be divided among {world} processes; set "
            f"P4R_TRAINING__BATCH_SIZE to a multiple of {world}"
        )
    whole = examples // training.batch_size  # the rest would be a small batch with few negatives
    steps = max(1, whole) * training.epochs
    half = settings.encoder.dtype
    on_gpu = device == "cuda"
    if tensorboard is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(tensorboard)  # the callback reads nothing else
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size // world,
        dataloader_drop_last=whole > 0,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=int(training.warmup * steps),
        weight_decay=training.weight_decay,
        seed=training.seed,
        bf16=half == "bfloat16" or (half == "auto" and on_gpu and torch.cuda.is_bf16_supported()),
        fp16=half == "float16" and on_gpu,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and world > 1 else None,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ndcg",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # epochs without improvement
        logging_steps=max(1, steps // MOST_LOGS),
        logging_nan_inf_filter=False,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="tensorboard" if tensorboard else "none",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # no DataParallel: use torchrun for several GPUs
    return arguments


def _device(encoder: EncoderSettings) -> str:
    if encoder.device in ("cpu", "cuda", "mps"):
        return encoder.device
    if encoder.device != "auto":
        raise InputError(
            f"training cannot use the device {encoder.device!r}; set P4R_ENCODER__DEVICE to auto, "
            "cpu, cuda or mps, and choose one of several GPUs with CUDA_VISIBLE_DEVICES"
        )
    return "cuda" if torch.cuda.is_available() else "cpu"


# --- checkpoints on the disk -----------------------------------------------------------------


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None. Logs a warning for damaged ones."""
    found = folder.glob("checkpoint-*")
    for one in sorted(found, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True):
        if _state(one) is None:
            continue
        if not (problem := _damage(one)):
            return one
        _log.warning("the checkpoint %s is left out: %s", one, problem)
    return None


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the best epoch so far.

    Raises TrainingError if it is missing or damaged.
    """
    last = last_checkpoint(folder)
    state = _state(last) if last else None
    best = folder / f"checkpoint-{state.best_global_step if state else None}"
    if problem := _damage(best):
        raise TrainingError(
            f"{folder} holds no whole checkpoint of the best epoch ({problem}); remove the folder, "
            "and run again"
        )
    return best


def is_finished(checkpoint: Path, patience: int) -> bool:
    """Whether a run that was killed after this checkpoint was already complete."""
    state = _state(checkpoint)
    if state is None:
        return False
    callbacks: Any = state.stateful_callbacks or {}
    waited = (
        callbacks.get(EarlyStoppingCallback.__name__, {})
        .get("attributes", {})
        .get("early_stopping_patience_counter", 0)
    )
    return state.global_step >= state.max_steps or waited >= patience


def log_history(checkpoint: Path) -> list[dict[str, float]]:
    """The log up to a checkpoint: loss, learning_rate, eval_ndcg ..., each with step and epoch."""
    state = _state(checkpoint)
    return list(state.log_history) if state else []


def _state(checkpoint: Path) -> TrainerState | None:
    try:
        state: TrainerState = TrainerState.load_from_json(str(checkpoint / STATE))
    except (OSError, ValueError, TypeError):
        return None
    return state


def _damage(checkpoint: Path) -> str:
    """Which file of a checkpoint is missing or damaged, and how; "" if all are complete."""
    paths = [checkpoint / ADAPTER_CONFIG, checkpoint / ADAPTER_WEIGHTS]
    for name in _PICKLED:
        paths += sorted(checkpoint.glob(name)) or [checkpoint / name]
    for path in paths:
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                load_file(path)
            else:
                with zipfile.ZipFile(path) as parts:  # checks the checksums and unpickles nothing
                    if broken := parts.testzip():
                        return f"{path.name} is damaged at {broken}"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
            what = f"damaged ({error})" if path.exists() else "missing"
            return f"{path.name} is {what}"
    return ""


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether a checkpoint could not be written because the disk is full.

    The message of safetensors says so; that of torch.save does not.
    """
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return True
    return "PytorchStreamWriter" in str(error) and shutil.disk_usage(folder).free < 1 << 24


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1])
