"""What identifies an encoder, and when two fingerprints are the same encoder.

A fingerprint is `EXACT.PROBE`. EXACT is a hash of all that can be read: weights, the files of the
tokenizer and of all modules, prompts, text templates. PROBE is what the encoder makes of a few
fixed texts, in coarse steps, which `same_encoder` compares with a step of leave: it finds what no
file tells, and it is all there is to see of the weights behind an endpoint.

A model behind an endpoint that was replaced under its name is found out by the probe; one that was
only retouched (cosines above some 0.99) may not be: give it a name of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer

PROBES = (
    "A novel about three sisters and a flooded orchard.",
    "Nurses on night shifts who cook for a whole week at once.",
    "category preference: sea voyages; quality criteria: maps that can be read.",
)
"""Texts whose vectors tell one model from another."""

TWIN = "A manual about seven engines and a frozen harbour."
"""As many words as the first probe, and the same marks: one who cannot read sees no difference."""

SAME = 1 - 1e-4
"""The cosine from which on the vectors of two texts are the same."""

DIRECTIONS = 8
"""Onto how many fixed directions each of those vectors is projected."""

STEP = 0.12
"""Of the projections, scaled to a variance of 1. The same model, served in another precision, moves
them by some 0.03; another model by more than 1."""

LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The levels of a measurement in a probe, low to high."""

_PROBED = re.compile(r"([0-9a-f]{16})\.([0-9a-z]{24})")
_EARLIER = re.compile(r"[0-9a-f]{16}")

_CODE = "*.py"
_LOADED = (
    "*config*.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer.*",
    "vocab*",
    "merges.txt",
    "*.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "*_template*.json",
    _CODE,
)
"""The files, besides the weights, that make a model what it is."""
_NOT_LOADED = frozenset({"data_config.json", "generation_config.json", "train_script.py"})
_SAYS_NOTHING = frozenset(
    {"__version__", "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"}
)
"""Keys of a configuration that differ between copies of one model."""


def same_encoder(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same encoder.

    Equal ones are. Others are if no measurement of their probes is off by more than a step: the
    same weights never answer twice with the very same numbers.
    """
    if one == other:
        return True
    probed, other_probed = _PROBED.fullmatch(one), _PROBED.fullmatch(other)
    if probed is None or other_probed is None or probed[1] != other_probed[1]:
        return False
    steps = zip(probed[2], other_probed[2], strict=True)
    return all(abs(LEVELS.index(a) - LEVELS.index(b)) <= 1 for a, b in steps)


def is_of_earlier_version(fingerprint: str) -> bool:
    """Whether a version of this project made it whose fingerprints were of weights only."""
    return _EARLIER.fullmatch(fingerprint) is not None


def made_of(exact: Sequence[Any], probes: Floats) -> str:
    """The fingerprint of what can be read of an encoder, and of its vectors of `PROBES`."""
    return f"{_hash(exact)}.{_levels(probes)}"


def alike(vectors: Floats) -> tuple[int, int] | None:
    """The rows of two vectors that are the same, (n, dim) float32 of unit length; None if none."""
    similarities = np.triu(vectors @ vectors.T, k=1)
    row, column = np.unravel_index(int(np.argmax(similarities)), similarities.shape)
    return (int(row), int(column)) if similarities[row, column] > SAME else None


def weights_hash(model: SentenceTransformer) -> str:
    """Hash of all parameters, whatever a version of the library calls them."""
    tensors = sorted(
        hashlib.sha256(tensor.detach().float().contiguous().numpy().data).digest()
        for tensor in model.parameters()
    )
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def weights_fingerprint(model: SentenceTransformer) -> str:
    """Hash of weights, vocabulary, pooling, input length and text templates.

    It was the whole fingerprint once, and adapters of that time name their base by it.
    """
    vocabulary: Any = model.tokenizer.get_vocab()
    parts: list[Any] = [
        weights_hash(model),
        sorted(vocabulary.items() if isinstance(vocabulary, dict) else vocabulary),
        model.max_seq_length,
        [(type(module).__name__, getattr(module, "pooling_mode", "")) for module in model],
        texts.fingerprint(),
    ]
    return _hash(parts)


def files_hash(folder: Path) -> str:
    """Hash of the files that a model is loaded from, but its weights.

    Configurations count by what they say, without the keys that differ between copies.
    """
    return _hash([(name, _content(path)) for name, path in sorted(_loaded(folder))])


def adapter_hash(config: Path, tensors: dict[str, Any]) -> str:
    """Hash of an adapter's configuration and tensors."""
    said = _without_noise(json.loads(config.read_bytes()))
    for name in ("base_model_name_or_path", "inference_mode", "peft_version", "revision"):
        said.pop(name, None)
    rows = [
        (name, hashlib.sha256(tensor.float().contiguous().numpy().data).hexdigest())
        for name, tensor in sorted(tensors.items())
    ]
    return _hash([sorted(said.items(), key=str), rows])


def _loaded(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name inside the folder, path) of the files that are loaded."""
    modules = folder / "modules.json"
    named = json.loads(modules.read_bytes()) if modules.is_file() else []
    places = [folder.glob, *((folder / one["path"]).rglob for one in named if one.get("path"))]
    found = {
        path
        for glob in places
        for pattern in _LOADED
        for path in glob(pattern)
        if path.is_file() and path.name not in _NOT_LOADED
    }
    for path in found:
        yield path.relative_to(folder).as_posix(), path


def _content(path: Path) -> str:
    if "config" not in path.name:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return json.dumps(_without_noise(json.loads(path.read_bytes())), sort_keys=True)


def _without_noise(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    return {name: value for name, value in said.items() if name not in _SAYS_NOTHING}


def _levels(probes: Floats) -> str:
    """The probe: a character each projection."""
    width = probes.shape[1]
    # Directions that every machine makes alike: the bits of hashes.
    bits = b"".join(
        hashlib.sha256(f"{direction} {block}".encode()).digest()
        for direction in range(DIRECTIONS)
        for block in range(-(-width // 256))
    )
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(DIRECTIONS, -1)[:, :width]
    scaled = probes.astype(np.float64) @ (2.0 * signs.T - 1.0)
    middle = len(LEVELS) // 2
    levels = np.clip(np.floor(scaled / STEP).astype(int) + middle, 0, len(LEVELS) - 1)
    return "".join(LEVELS[one] for one in levels.ravel())


def _hash(parts: Sequence[Any]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]
