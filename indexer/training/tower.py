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

from p4r_qdrant.encoder import ADAPTER_WEIGHTS, Encoder, Floats, normalised
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import TrainingSettings


class Tower(torch.nn.Module):
    """Texts to normalised embeddings. Both sides of a pair go through it.

    The texts of a batch are encoded `micro_batch_size` at a time; only the embeddings stay. The
    way back encodes each piece again, with the same dropout, and frees it before the next: one
    batch of any size in the memory of a piece, with the gradients that one big batch has
    (gradient caching, arXiv 2101.06983, by way of activation checkpoints).
    """

    def __init__(
        self, model: SentenceTransformer, training: TrainingSettings, name: str = ""
    ) -> None:
        """Put LoRA layers into a model of this name; nothing else of it learns from then on.

        Raises InputError where the model has no layer of the names in `target_modules`.
        """
        super().__init__()
        self.adapter = _add_lora(model, training, name)
        self.model = model
        self.micro_batch_size = training.micro_batch_size

    def forward(self, batch: Sequence[str]) -> Tensor:
        """(n, dim) in the order of `batch`."""
        order = sorted(range(len(batch)), key=lambda place: len(batch[place]))
        size = self.micro_batch_size
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        embeddings = []
        for piece in pieces:
            features = self.model.preprocess([batch[place] for place in piece])
            tensors = {
                name: value.to(self.device) if isinstance(value, Tensor) else value
                for name, value in features.items()
            }
            if len(pieces) == 1 or not torch.is_grad_enabled():
                embeddings.append(self._embed(tensors))
            else:
                embeddings.append(checkpoint(self._embed, tensors, use_reentrant=False))
        back = torch.tensor(np.argsort(order), device=self.device)
        return F.normalize(torch.cat(embeddings), dim=-1)[back]

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


class TowerEncoder(Encoder):
    """The tower as the rest of the project knows encoders: Eq. 7 and 8 in the serving code."""

    def __init__(self, tower: Tower) -> None:
        self.name = "in training"
        self.fingerprint = ""
        self.dimension = int(tower.model.get_embedding_dimension() or 0)
        self._tower = tower

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`; without dropout."""
        encoded = self._tower.model.encode(
            list(batch),
            batch_size=self._tower.micro_batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return normalised(encoded)


def _add_lora(model: SentenceTransformer, training: TrainingSettings, name: str) -> Any:
    from peft import LoraConfig, get_peft_model

    names = training.target_modules
    transformer: Any = model[0]
    layers = None
    if training.lora_layers is not None:
        depth = transformer.auto_model.config.num_hidden_layers
        layers = list(range(max(0, depth - training.lora_layers), depth))
    model.requires_grad_(requires_grad=False)
    try:
        config = LoraConfig(
            r=training.lora_r,
            lora_alpha=training.lora_alpha,
            lora_dropout=training.lora_dropout,
            target_modules=(
                names if names in (None, "all-linear") else re.split(r"\s*,\s*", names or "")
            ),
            layers_to_transform=layers,
            exclude_modules=r".*pooler.*",  # not in a sentence embedding's way: it would not learn
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers to peft
            adapted = get_peft_model(transformer.auto_model, config)  # in place
        config.base_model_name_or_path = name  # a path of this machine says nothing elsewhere
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"LoRA does not fit the model ({reason.rstrip('.')}); set "
            "P4R_TRAINING__TARGET_MODULES to names of its layers"
        ) from None
    return adapted
