"""What identifies an encoder, and when two fingerprints are the same encoder."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p4r_qdrant import texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS

PROBE_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The levels of a measurement in an endpoint's fingerprint, low to high."""


_PROBED = re.compile(r"([0-9a-f]{16})\.([0-9a-z]{24})")


_MERGED_BY = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


def same_encoder(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same encoder.

    Equal ones are. Those of an endpoint end in a probe of its model (see `endpoint.py`), a
    character each measurement: it is the same as long as none is off by more than a step, for the
    same weights never answer twice with the very same numbers.
    """
    if one == other:
        return True
    probed, other_probed = _PROBED.fullmatch(one), _PROBED.fullmatch(other)
    if probed is None or other_probed is None or probed[1] != other_probed[1]:
        return False
    steps = zip(probed[2], other_probed[2], strict=True)
    return all(abs(PROBE_LEVELS.index(a) - PROBE_LEVELS.index(b)) <= 1 for a, b in steps)


def weights_hash(model: SentenceTransformer) -> str:
    """Hash of all parameters, whatever a version of the library calls them."""
    tensors = sorted(
        hashlib.sha256(tensor.detach().float().contiguous().numpy().data).digest()
        for tensor in model.parameters()
    )
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def model_fingerprint(model: SentenceTransformer) -> str:
    """Hash of weights, tokenizer, pooling, input length and text templates."""
    parts: list[Any] = [
        weights_hash(model),
        sorted(model.tokenizer.get_vocab().items()),
        model.max_seq_length,
        [(type(module).__name__, getattr(module, "pooling_mode", "")) for module in model],
        texts.fingerprint(),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def adapted_fingerprint(base: str, adapter: Path) -> str:
    """Hash of a base's fingerprint, the adapter's weights, and how they are merged into it."""
    config = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    weights = (adapter / ADAPTER_WEIGHTS).read_bytes()
    parts = [base, [config.get(name) for name in _MERGED_BY], hashlib.sha256(weights).hexdigest()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
