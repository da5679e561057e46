"""The encoder during training: a base model with trainable LoRA layers, run in micro-batches."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.adapter import ADAPTER_WEIGHTS
from p4r_qdrant.encoder.base import EncoderOver
from p4r_qdrant.encoder.border import translated
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.encoder.lora import identity_head
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import TrainingSettings

HEAD = "head"
"""The value of `target_modules` for one layer after the model instead of layers inside it."""


class Tower(torch.nn.Module):
    """Texts to normalised embeddings. Both sides of a pair go through it.

    The texts of a batch are encoded `micro_batch_size` at a time; only the embeddings are kept.
    The backward pass encodes each micro-batch again with the same dropout and frees it before the
    next. A batch of any size needs the memory of a micro-batch and has the gradients of the whole
    batch (gradient caching, arXiv 2101.06983, implemented with activation checkpoints).
    """

    def __init__(self, base: PersonaEncoder, training: TrainingSettings) -> None:
        """Add LoRA layers to the model of an encoder; all other parameters are frozen.

        Raises InputError if the model has no layer with a name in `target_modules`.
        """
        super().__init__()
        model = base.sentence_transformer
        model.requires_grad_(requires_grad=False)
        self.base = base
        self.adapter = _add_lora(self._adapted(model), training, base.name)
        self.model = model
        self.micro_batch_size = training.micro_batch_size

    def _adapted(self, model: SentenceTransformer) -> Any:
        """The module that gets the LoRA layers."""
        transformer: Any = model[0]
        return transformer.auto_model

    def forward(self, batch: Sequence[str]) -> Tensor:
        """(n, dim) in the order of `batch`."""
        return F.normalize(self._encoded(batch), dim=-1)

    def _encoded(self, batch: Sequence[str]) -> Tensor:
        order = sorted(range(len(batch)), key=lambda place: len(batch[place]))
        size = self.micro_batch_size
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        embeddings = []
        for piece in pieces:
            features = self.model.preprocess(
                [batch[place] for place in piece],
                prompt=self.model.prompts.get(self.model.default_prompt_name or ""),
            )
            tensors = {
                name: value.to(self.device) if isinstance(value, Tensor) else value
                for name, value in features.items()
            }
            if len(pieces) == 1 or not torch.is_grad_enabled():
                embeddings.append(self._embed(tensors))
            else:
                embeddings.append(checkpoint(self._embed, tensors, use_reentrant=False))
        back = torch.tensor(np.argsort(order), device=self.device)
        return torch.cat(embeddings)[back]

    def _embed(self, features: dict[str, Any]) -> Tensor:
        embeddings: Tensor = self.model(dict(features))["sentence_embedding"]
        return embeddings

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA layers in the format that `PersonaEncoder` reads."""
        # A card for a model hub, with each checkpoint; `output.py` writes ours.
        self.adapter.create_or_update_model_card = lambda *_: None
        self.adapter.save_pretrained(str(folder), save_embedding_layers=False)

    def load_adapter(self, folder: Path) -> None:
        """Load the layers that `save_adapter` wrote."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapter, load_file(folder / ADAPTER_WEIGHTS))


class HeadTower(Tower):
    """A tower in which only one layer after the base is trained.

    known: the base's vector of each text, (dim,). Each text is encoded once.
    """

    def __init__(self, base: PersonaEncoder, training: TrainingSettings) -> None:
        super().__init__(base, training)
        self.known: dict[str, Tensor] = {}

    def _adapted(self, model: SentenceTransformer) -> Any:
        return identity_head(model.get_embedding_dimension() or 0)

    def forward(self, batch: Sequence[str]) -> Tensor:
        """(n, dim) in the order of `batch`."""
        new = [text for text in dict.fromkeys(batch) if text not in self.known]
        if new:
            self.model.eval()
            with torch.no_grad():
                self.known |= zip(new, self._encoded(new), strict=True)
        known = torch.stack([self.known[text] for text in batch])
        return F.normalize(
            self.adapter({"sentence_embedding": known})["sentence_embedding"], dim=-1
        )


class TowerEncoder(EncoderOver):
    """The tower as an `Encoder`, so that the serving code computes Eq. 7 and 8 with it."""

    def __init__(self, tower: Tower) -> None:
        super().__init__(tower.base)
        self.name = "in training"
        self.fingerprint = ""
        self._tower = tower

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`; without dropout."""
        if not batch:
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._tower.eval()
        with torch.no_grad():
            return normalised(self._tower(batch).float().cpu().numpy())


def tower(base: PersonaEncoder, training: TrainingSettings) -> Tower:
    """Make the tower that the settings ask for."""
    kind = HeadTower if training.target_modules == HEAD else Tower
    return kind(base, training)


def _add_lora(adapted: Any, training: TrainingSettings, name: str) -> Any:
    """Add LoRA layers to a module, in place; return the peft model around it."""
    with translated(
        lambda reason: InputError(
            f"LoRA does not fit the model ({reason}); set "
            "P4R_TRAINING__TARGET_MODULES to names of its layers"
        )
    ):
        return _with_lora(adapted, training, name)


def _with_lora(adapted: Any, training: TrainingSettings, name: str) -> Any:
    from peft import LoraConfig, get_peft_model

    names: str | list[str] | None = training.target_modules
    if names == HEAD:
        names = ["linear"]
    elif isinstance(names, str) and names != "all-linear":
        names = re.split(r"\s*,\s*", names)
    layers = None
    if training.lora_layers is not None and training.target_modules != HEAD:
        depth = adapted.config.num_hidden_layers
        layers = list(range(max(0, depth - training.lora_layers), depth))
    config = LoraConfig(
        r=training.lora_r,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules=names,
        layers_to_transform=layers,
        # A sentence embedding does not use the pooler: it would get no gradients.
        exclude_modules=None if training.target_modules == HEAD else r".*pooler.*",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers to peft; a model without a pooler
        peft = get_peft_model(adapted, config)
    config.base_model_name_or_path = name  # a path of this machine is useless elsewhere
    return peft
