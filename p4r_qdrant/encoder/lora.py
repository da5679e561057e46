"""Merge a LoRA adapter into a model."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.errors import EncoderError, MissingExtraError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from p4r_qdrant.encoder.fingerprint import weights_hash

_HEAD = "base_model.model.linear."  # what peft calls the layer of `identity_head`


def check_base(fingerprint: str, adapter: Path, base: str) -> None:
    """Refuse an adapter that was trained on another base, whose shapes may well fit."""
    record = AdapterRecord.read(adapter)
    if record is not None and record.base_fingerprint != fingerprint:
        raise EncoderError(
            f"the adapter {adapter} was trained on {record.base} (fingerprint "
            f"{record.base_fingerprint}), not on this {base} (fingerprint {fingerprint}): another "
            "model, or other text templates; set P4R_ENCODER__MODEL to that one, or train again"
        )


def merge_adapter(model: SentenceTransformer, adapter: Path, base: str) -> None:
    """Merge a LoRA adapter into the model's weights; refuse one that does not take effect."""
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise EncoderError(
            f"the adapter folder {adapter} holds no {ADAPTER_CONFIG}; set P4R_ENCODER__ADAPTER "
            "to a folder that `peft` saved"
        )
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("an adapter needs peft: pip install 'p4r-qdrant[encoder]'")
    import safetensors
    from peft import PeftModel

    transformer: Any = model[0]
    try:
        with safetensors.safe_open(adapter / ADAPTER_WEIGHTS, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        adapted = transformer.auto_model
        if tensors and all(name.startswith(_HEAD) for name in tensors):
            adapted = identity_head(model.get_embedding_dimension() or 0)
            model.append(adapted)
        hash_before = weights_hash(model)
        with warnings.catch_warnings():
            # What peft would warn of (tensors without a counterpart) is an error below.
            warnings.simplefilter("ignore")
            merged = PeftModel.from_pretrained(adapted, str(adapter))
        expected = {name.replace(".default", "") for name in merged.state_dict() if "lora_" in name}
        strangers = tensors.keys() ^ expected
        broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if strangers:
            raise EncoderError(
                f"the adapter {adapter} does not fit the model {base}: {len(strangers)} of its "
                f"tensors have no counterpart (first: {min(strangers)})"
            )
        if broken:
            raise EncoderError(
                f"the adapter {adapter} holds numbers that are not finite (first: {min(broken)}); "
                "train it again with a lower learning rate"
            )
        merged.merge_and_unload()  # in place: the layers are those of the model
    except (OSError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(
            f"the adapter {adapter} does not fit the model {base}: {reason}"
        ) from None
    if weights_hash(model) == hash_before:
        raise EncoderError(
            f"the adapter {adapter} changes nothing in the model {base}; it was saved untrained"
        )


def identity_head(width: int) -> torch.nn.Module:
    """A linear layer to put behind a model: it changes nothing until LoRA adapts it."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    head: torch.nn.Module = Dense(
        width,
        width,
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=torch.eye(width),
    )
    return head
