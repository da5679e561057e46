"""Tune a local model to a peer's answers by LoRA, with the Trainer of transformers.

Source: LlamaRec (arXiv 2311.02089): letters, r 8, alpha 32, one epoch. TALLRec (arXiv 2305.00447):
pointwise, r 8, alpha 16, stopped early by AUC. Both: dropout 0.05, query and value, 1e-4.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from indexer.llm import Options
from indexer.metrics import Floats
from indexer.peers.local import (
    LocalModel,
    Messages,
    enough_memory,
    last_logits,
    padded,
    without_future_warnings,
)
from indexer.peers.tuned import RECORD
from indexer.peers.tuning_data import Example, TuningData
from indexer.training.trainer import last_checkpoint
from p4r_qdrant.errors import InputError

CHECKPOINTS = "checkpoints"
_VALUE = "eval_value"


@dataclass(frozen=True)
class TuningOptions:
    """How a model is tuned; `alpha` and `epochs` None: those of the peer's paper."""

    rank: int = 8
    alpha: int | None = None
    dropout: float = 0.05
    epochs: int | None = None
    learning_rate: float = 1e-4
    batch_size: int = 16
    micro_batch_size: int = 4
    patience: int = 3
    seed: int = 0

    def alpha_of(self, peer: str) -> int:
        """LoRA's alpha."""
        return self.alpha or {"letters": 32, "pointwise": 16}[peer]

    def epochs_of(self, peer: str) -> int:
        """Passes over the examples, at most."""
        return self.epochs or {"letters": 1, "pointwise": 10}[peer]


@dataclass(frozen=True)
class Tuned:
    """The result: `value` of the dev examples before and after, by `measure`."""

    adapter: Path
    measure: str
    before: float
    after: float
    examples: int
    dev_examples: int


@dataclass(frozen=True, slots=True)
class _Row:
    tokens: list[int]
    right: int
    """The token of the right option."""


class _PeerTrainer(Trainer):
    """The loss is that of one token: the right option."""

    control: TrainerControl

    def __init__(
        self, model: LocalModel, peer: str, data: TuningData, arguments: TrainingArguments
    ) -> None:
        self._local = model
        self._data = data
        self._peer = peer
        super().__init__(
            model=model.model,
            args=arguments,
            train_dataset=_rows(model, data.train),
            eval_dataset=_rows(model, data.dev),
            data_collator=self._collated,
        )
        self.remove_callback(PrinterCallback)

    def _collated(self, rows: Sequence[_Row]) -> dict[str, torch.Tensor]:
        inputs = padded([one.tokens for one in rows], self._local.tokenizer.pad_token_id)
        return inputs | {"labels": torch.tensor([one.right for one in rows])}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Cross-entropy of the right token."""
        labels = inputs.pop("labels")
        logits = last_logits(model, inputs)
        return torch.nn.functional.cross_entropy(logits, labels.to(logits.device))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The measure of the dev examples."""
        self.model.eval()
        found = {_VALUE: dev_value(self._local, self._peer, self._data.dev)}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self.model.train()
        return found


def dev_value(model: LocalModel, peer: str, examples: Sequence[Example]) -> float:
    """letters: mean reciprocal rank of the right letter. pointwise: AUC, or accuracy if all dev
    answers are the same.
    """
    scores: list[dict[str, float]] = [{} for _ in examples]
    for options in {_options(one): None for one in examples}:
        places = [at for at, one in enumerate(examples) if _options(one) == options]
        found = model.option_logprobs([_tokens(model, examples[at]) for at in places], options)
        for at, own in zip(places, found, strict=True):
            scores[at] = own
    if peer == "letters":
        ranks = [
            1 + sum(value > own[one.answer] for value in own.values())
            for one, own in zip(examples, scores, strict=True)
        ]
        return float(np.mean(1 / np.array(ranks)))
    liked = np.array([one.answer == "Yes" for one in examples])
    margins = np.array([own["Yes"] - own["No"] for own in scores])
    if liked.all() or not liked.any():
        return float(np.mean((margins > 0) == liked))
    return auc(margins, liked)


def auc(scores: Floats, positive: Any) -> float:
    """The share of (positive, negative) pairs in the right order."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def tune_peer(
    model: LocalModel,
    peer: str,
    data: TuningData,
    output: Path,
    options: TuningOptions,
    about: Mapping[str, Any] | None = None,
) -> Tuned:
    """Train LoRA layers and write them to `output`. A killed run goes on from its checkpoint.

    The epoch that is best on the dev examples counts. about: what the examples were made from, for
    the record. Raises InputError if the folder holds
    another run, LocalModelError for too little memory.
    """
    record = {
        "peer": peer,
        "model": model.name,
        "options": asdict(options),
        "data": data.hash(),
        **(about or {}),
    }
    _check_record(output, record)
    measure = "MRR" if peer == "letters" else "AUC"
    before = dev_value(model, peer, data.dev)
    torch.manual_seed(options.seed)
    checkpoint = last_checkpoint(output / CHECKPOINTS)
    with enough_memory(model.name), without_future_warnings():
        model.model = _with_lora(model, peer, options)
        trainer = _PeerTrainer(model, peer, data, _arguments(output, peer, options))
        trainer.add_callback(EarlyStoppingCallback(options.patience))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    after = dev_value(model, peer, data.dev)
    model.model.save_pretrained(str(output))
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    found = Tuned(output, measure, before, after, len(data.train), len(data.dev))
    with written_whole(output / RECORD) as write:
        result = asdict(found) | {"adapter": str(output)}
        write(json.dumps(record | {"result": result}, indent=2))
    return found


def _with_lora(model: LocalModel, peer: str, options: TuningOptions) -> PeftModel:
    names = {name.rpartition(".")[2] for name, _ in model.model.named_modules()}
    usual = [one for one in ("q_proj", "v_proj", "query", "value", "c_attn") if one in names]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha_of(peer),
        lora_dropout=options.dropout,
        target_modules=usual or "all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model.model, config)


def _arguments(output: Path, peer: str, options: TuningOptions) -> TrainingArguments:
    micro = min(options.micro_batch_size, options.batch_size)
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=options.epochs_of(peer),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, options.batch_size // micro),
        learning_rate=options.learning_rate,
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


def _rows(model: LocalModel, examples: Sequence[Example]) -> list[_Row]:
    rows = []
    for one in examples:
        options = _options(one)
        ids = model.tokenizer.encode(one.answer, add_special_tokens=False)
        right = ids[0] if len(ids) == 1 else model.option_tokens(options)[0][0]
        rows.append(_Row(_tokens(model, one), right))
    return rows


def _tokens(model: LocalModel, one: Example) -> list[int]:
    tokens = model.tokens(Messages(one.request.system, one.request.user))
    if len(tokens) > model.longest:
        raise InputError(
            f"an example of user {one.user_id!r} has {len(tokens)} tokens, and {model.name} reads "
            f"{model.longest}: lower the options words and history_words"
        )
    return tokens


def _options(one: Example) -> Options:
    assert one.request.options is not None  # noqa: S101 - both peers have options
    return one.request.options


def _check_record(output: Path, record: dict[str, Any]) -> None:
    """Note what is trained in the folder. Raises InputError if something else is."""
    path = output / RECORD
    if path.is_file():
        before = json.loads(path.read_bytes())
        if {name: before.get(name) for name in record} != record:
            raise InputError(f"{output} holds another tuned peer; name another folder")
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as write:
        write(json.dumps(record, indent=2))
