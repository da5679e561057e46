"""The encoder while it is trained: a base model whose LoRA layers learn, in pieces of a batch."""

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
"""The name, among `target_modules`, of a layer behind the model instead of layers inside."""


class Tower(torch.nn.Module):
    """Texts to normalised embeddings. Both sides of a pair go through it.

    The texts of a batch are encoded `micro_batch_size` at a time; only the embeddings stay. The
    way back encodes each piece again, with the same dropout, and frees it before the next: one
    batch of any size in the memory of a piece, with the gradients that one big batch has
    (gradient caching, arXiv 2101.06983, by way of activation checkpoints).
    """

    def __init__(self, base: PersonaEncoder, training: TrainingSettings) -> None:
        """Put LoRA layers into the model of an encoder; nothing else of it learns from then on.

        Raises InputError where the model has no layer of the names in `target_modules`.
        """
        super().__init__()
        model = base.sentence_transformer
        model.requires_grad_(requires_grad=False)
        self.base = base
        self.adapter = _add_lora(self._adapted(model), training, base.name)
        self.model = model
        self.micro_batch_size = training.micro_batch_size

    def _adapted(self, model: SentenceTransformer) -> Any:
        """What LoRA goes into."""
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
        """Where the parameters are."""
        return next(self.parameters()).device

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA layers as `PersonaEncoder` reads them."""
        self.adapter.save_pretrained(str(folder), save_embedding_layers=False)

    def load_adapter(self, folder: Path) -> None:
        """Take up what `save_adapter` wrote."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapter, load_file(folder / ADAPTER_WEIGHTS))


class HeadTower(Tower):
    """A tower of which only a layer behind the base learns.

    known: what the base makes of each text, (dim,); a text is encoded once, and kept.
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
    """The tower as the rest of the project knows encoders: Eq. 7 and 8 in the serving code."""

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
    """The tower that the settings ask for; see `Tower`."""
    kind = HeadTower if training.target_modules == HEAD else Tower
    return kind(base, training)


def _add_lora(adapted: Any, training: TrainingSettings, name: str) -> Any:
    """LoRA layers put into a module, in place; the peft model around it."""
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
        # A pooler is not in a sentence embedding's way: it would not learn.
        exclude_modules=None if training.target_modules == HEAD else r".*pooler.*",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers to peft; a model without a pooler
        peft = get_peft_model(adapted, config)
    config.base_model_name_or_path = name  # a path of this machine says nothing elsewhere
    return peft
