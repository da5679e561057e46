"""Merge an adapter that `peft` can merge into a model: LoRA, DoRA, and others."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterRecord
from p4r_qdrant.encoder.border import translated
from p4r_qdrant.encoder.fingerprint import adapter_hash, same_encoder, weights_hash
from p4r_qdrant.errors import EncoderError, MissingExtraError, SettingsError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

_OLD_WEIGHTS = "adapter_model.bin"
_HEAD = "base_model.model.linear."  # what peft calls the layer of `identity_head`


def check_folder(adapter: Path) -> None:
    """Raise SettingsError unless there is a folder that holds an adapter."""
    if not adapter.is_dir():
        raise SettingsError(
            f"there is no adapter folder {adapter}; set P4R_ENCODER__ADAPTER to a folder that "
            "`p4r train` made or that `peft` saved"
        )
    for names in ((ADAPTER_CONFIG,), (ADAPTER_WEIGHTS, _OLD_WEIGHTS)):
        if not any((adapter / name).is_file() for name in names):
            raise SettingsError(
                f"the adapter folder {adapter} holds no {names[0]}; set P4R_ENCODER__ADAPTER "
                "to a folder that `p4r train` made or that `peft` saved"
            )


def check_base(fingerprints: Sequence[str], adapter: Path, base: str) -> None:
    """Refuse an adapter that was trained on another base, whose shapes may well fit.

    fingerprints: of this base; an adapter that an earlier version trained names another one.
    """
    record = AdapterRecord.read(adapter)
    if record is None or any(same_encoder(record.base_fingerprint, one) for one in fingerprints):
        return
    raise EncoderError(
        f"the adapter {adapter} was trained on {record.base} (fingerprint "
        f"{record.base_fingerprint}), not on this {base} (fingerprint {fingerprints[0]}): another "
        "model, other prompts, or other text templates; set P4R_ENCODER__MODEL to that one, or "
        "train again"
    )


def merge_adapter(model: SentenceTransformer, adapter: Path, base: str) -> str:
    """Merge an adapter into the model's weights; returns a hash of the adapter.

    Raises EncoderError if it does not fit, cannot be merged, or does not take effect.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("an adapter needs peft: pip install 'p4r-qdrant[encoder]'")
    with translated(
        lambda reason: EncoderError(
            f"the adapter {adapter} does not fit the model {base}, or peft cannot merge it "
            f"({reason}); set P4R_ENCODER__ADAPTER to one that was trained on this model"
        )
    ):
        tensors = _tensors(adapter)
        found = adapter_hash(adapter / ADAPTER_CONFIG, tensors)
        adapted = _adapted(model, tensors)
        before = weights_hash(model)
        _merge(adapted, adapter, base, tensors)
        after = weights_hash(model)
    if before == after:
        raise EncoderError(
            f"the adapter {adapter} changes nothing in the model {base}; it was saved untrained"
        )
    return found


def _tensors(adapter: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter by their names in its file. Raises EncoderError if one is NaN."""
    from peft.utils.save_and_load import load_peft_weights

    tensors: dict[str, torch.Tensor] = load_peft_weights(str(adapter), device="cpu")
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise EncoderError(
            f"the adapter {adapter} holds numbers that are not finite (first: {min(broken)}); "
            "train it again with a lower learning rate"
        )
    return tensors


def _adapted(model: SentenceTransformer, tensors: Collection[str]) -> Any:
    """The part of a model that an adapter with these tensors changes."""
    if tensors and all(name.startswith(_HEAD) for name in tensors):
        head = identity_head(model.get_embedding_dimension() or 0)
        model.append(head)
        return head
    transformer: Any = model[0]
    return transformer.auto_model


def _merge(adapted: Any, adapter: Path, base: str, tensors: dict[str, torch.Tensor]) -> None:
    """Merge in place: the layers are those of the model. Raises EncoderError, and as peft does."""
    from peft import PeftModel
    from peft.utils.save_and_load import get_peft_model_state_dict

    with warnings.catch_warnings():
        # What peft would warn of (tensors without a counterpart) is an error below.
        warnings.simplefilter("ignore")
        merged: Any = PeftModel.from_pretrained(adapted, str(adapter))
        if not hasattr(merged.base_model, "merge_and_unload"):
            kind = merged.peft_config["default"].peft_type
            raise EncoderError(
                f"the adapter {adapter} is of the kind {getattr(kind, 'value', kind)}, which peft "
                "cannot merge into a model; set P4R_ENCODER__ADAPTER to a LoRA adapter"
            )
        expected = get_peft_model_state_dict(merged, save_embedding_layers=False)
        # An adapter may bring whole embedding layers, which peft takes by themselves.
        strangers = {
            name
            for name in tensors.keys() ^ expected.keys()
            if name not in tensors or name not in merged.state_dict()
        }
        if strangers:
            raise EncoderError(
                f"the adapter {adapter} does not fit the model {base}: {len(strangers)} of its "
                f"tensors have no counterpart (first: {min(strangers)})"
            )
        merged.merge_and_unload(safe_merge=True)


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
