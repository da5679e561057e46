"""Tune a local model to a peer's answers by LoRA, with the Trainer of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerControl,
    TrainingArguments,
)

from indexer.artifacts.writing import written_whole
from indexer.peers.local import WEIGHTS, LocalModel, enough_memory, without_library_warnings
from indexer.peers.options import TunablePeer
from indexer.peers.recipes import Recipe, TuningOptions
from indexer.peers.tuned import RECORD
from indexer.peers.tuning_data import TuningData
from indexer.peers.tuning_rows import collated, dev_value, loss_of, readable, row
from indexer.training.trainer import last_checkpoint
from p4r_qdrant.errors import InputError

CHECKPOINTS = "checkpoints"
_VALUE = "eval_value"


@dataclass(frozen=True)
class Tuned:
    """The result: the `measure` of the dev examples before and after.

    left_out: examples that are too long for the model.
    """

    adapter: Path
    measure: str
    before: float
    after: float
    examples: int
    dev_examples: int
    left_out: int


class _PeerTrainer(Trainer):
    """Its loss is that of the answers alone."""

    control: TrainerControl

    def __init__(
        self, model: LocalModel, peer: TunablePeer, data: TuningData, arguments: TrainingArguments
    ) -> None:
        self._local = model
        self._data = data
        self._peer = peer
        super().__init__(
            model=model.model,
            args=arguments,
            train_dataset=[row(model, peer, one) for one in data.train],
            eval_dataset=[row(model, peer, one) for one in data.dev],
            data_collator=partial(collated, padding=model.tokenizer.pad_token_id),
        )
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Cross-entropy of the answers' tokens."""
        loss: torch.Tensor = loss_of(model, inputs)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The measure of the dev examples."""
        self.model.eval()
        found = {_VALUE: dev_value(self._local, self._peer, self._data.dev)}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self.model.train()
        return found


def tune_peer(
    model: LocalModel,
    peer: TunablePeer,
    data: TuningData,
    output: Path,
    options: TuningOptions,
    about: Mapping[str, Any] | None = None,
) -> Tuned:
    """Train LoRA layers and write them to `output`.

    A killed run goes on from its checkpoint; one that has ended is not repeated. The epoch that is
    best on the dev examples counts. about: what the examples were made from, for the record. Raises
    InputError if the folder holds another run, LocalModelError for too little memory.
    """
    record = {
        "peer": peer,
        "model": model.name,
        "options": asdict(options),
        "data": data.hash(),
        **(about or {}),
    }
    if (finished := _noted(output, record)) is not None:
        return finished
    kept = TuningData(readable(model, peer, data.train), readable(model, peer, data.dev))
    recipe = options.recipe(peer)
    before = dev_value(model, peer, kept.dev)
    torch.manual_seed(options.seed)
    checkpoint = last_checkpoint(output / CHECKPOINTS)
    with enough_memory(model.name), without_library_warnings():
        model.model = _with_lora(model, recipe)
        trainer = _PeerTrainer(model, peer, kept, _arguments(output, recipe, options))
        trainer.add_callback(EarlyStoppingCallback(options.patience))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    after = dev_value(model, peer, kept.dev)
    with without_library_warnings():
        model.model.save_pretrained(str(output))
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    counts = len(kept.train), len(kept.dev), _examples(data) - _examples(kept)
    found = Tuned(output, recipe.measure, before, after, *counts)
    with written_whole(output / RECORD) as write:
        result = asdict(found) | {"adapter": str(output)}
        write(json.dumps(record | {"result": result}, indent=2))
    return found


def _examples(data: TuningData) -> int:
    return len(data.train) + len(data.dev)


def _with_lora(model: LocalModel, recipe: Recipe) -> PeftModel:
    names = {name.rpartition(".")[2] for name, _ in model.model.named_modules()}
    usual = [one for one in ("q_proj", "v_proj", "query", "value", "c_attn") if one in names]
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear" if recipe.every_layer or not usual else usual,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model.model, config)


def _arguments(output: Path, recipe: Recipe, options: TuningOptions) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.at_once,
        gradient_accumulation_steps=options.batch_size // recipe.at_once,
        learning_rate=recipe.learning_rate,
        seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=_VALUE,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _noted(output: Path, record: dict[str, Any]) -> Tuned | None:
    """Note what is trained in the folder; its result if it has ended.

    Raises InputError if the folder holds something else.
    """
    path = output / RECORD
    if path.is_file():
        before = json.loads(path.read_bytes())
        if {name: before.get(name) for name in record} != record:
            raise InputError(f"{output} holds another tuned peer; name another folder")
        result = before.get("result")
        if result is not None and (output / WEIGHTS).is_file():
            return Tuned(**(result | {"adapter": output}))
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as write:
        write(json.dumps(record, indent=2))
    return None
