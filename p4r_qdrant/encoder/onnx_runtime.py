"""ONNX Runtime in the place of a model's transformer: exported once in 8 bits, then run.

Tokenizer, input length, batches, pooling and heads stay those of sentence-transformers. What the
transformer makes of tokens comes from ONNX Runtime on the CPU. Imported at first use: it needs
torch and the extra `onnx`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnxruntime
import torch
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from transformers.modeling_outputs import BaseModelOutput

from p4r_qdrant.encoder.border import translated
from p4r_qdrant.encoder.fingerprint import PROBES
from p4r_qdrant.errors import EncoderError
from p4r_qdrant.file_lock import take
from p4r_qdrant.settings import EncoderSettings
from p4r_qdrant.whole_files import sync_folder

_log = logging.getLogger(__name__)

_FORM = 2
"""Raise it when the way of exporting changes: exports of another form are made again."""
_PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxscript", "onnxruntime")
_FILE = "model.onnx"
_HIDDEN = "last_hidden_state"
_WAIT_S = 0.2


def run_in_onnx(model: SentenceTransformer, settings: EncoderSettings, fingerprint: str) -> None:
    """Replace a model's transformer by ONNX Runtime with weights and activations of 8 bits.

    fingerprint: of the model with its adapter; the export is named by it.
    Raises EncoderError where the model cannot be exported, or the folder cannot be used.
    """
    transformer: Any = model[0]
    with translated(lambda reason: _not_exported(settings, reason)):
        inputs = _example(transformer)
    parts = (_FORM, settings.backend, fingerprint, list(inputs), *map(version, _PACKAGES))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    folder = Path(settings.onnx_folder or Path(constants.HF_HOME, "p4r-onnx")).absolute()

    def write(place: Path) -> None:
        with translated(lambda reason: _not_exported(settings, reason)), _quiet():
            _export(transformer, inputs, place)

    try:
        exported = _made_once(folder / key, write)
    except OSError as error:
        raise EncoderError(
            f"the exported model cannot be written to {folder} ({error.strerror or error}); set "
            "P4R_ENCODER__ONNX_FOLDER to a folder that can be written"
        ) from None
    with translated(
        lambda reason: EncoderError(
            f"the exported model in {exported} cannot be loaded ({reason}); delete that folder, "
            "and it is exported again"
        )
    ):
        transformer.model = _InOnnx(_session(exported / _FILE), transformer.model.config)


class _InOnnx(torch.nn.Module):
    """What sentence-transformers takes for the transformer."""

    def __init__(self, session: onnxruntime.InferenceSession, config: Any) -> None:
        super().__init__()
        self.config = config
        self._session = session
        self._names = [one.name for one in session.get_inputs()]

    def forward(self, attention_mask: torch.Tensor, **features: Any) -> BaseModelOutput:
        """The hidden states of tokens: (texts, tokens, width) float32; 0 for padding.

        Each text runs alone, without padding: activations are rounded by the largest one of a
        run, so that in a batch the vector of a text would depend on the other texts.
        """
        given = {name: features[name].numpy() for name in self._names if name in features}
        given["attention_mask"] = attention_mask.numpy()
        parts = []
        for row, read in enumerate(given["attention_mask"].astype(bool)):
            one = {name: values[row : row + 1, read] for name, values in given.items()}
            (hidden,) = self._session.run([_HIDDEN], one)
            parts.append(hidden[0])
        padded = np.zeros((*attention_mask.shape, parts[0].shape[1]), dtype=np.float32)
        padded[given["attention_mask"].astype(bool)] = np.concatenate(parts)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(padded))


class _Hidden(torch.nn.Module):
    """A transformer as a function of named tensors in a fixed order."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.names, tensors, strict=True))
        hidden: torch.Tensor = self.model(**given, return_dict=True).last_hidden_state
        return hidden


def _example(transformer: Any) -> dict[str, torch.Tensor]:
    """Inputs of the transformer for texts of different lengths.

    Raises ValueError if the model's first part is not a transformer that reads tokens.
    """
    reads = getattr(transformer, "modality_config", {}).get("text", {})
    if (reads.get("method"), reads.get("method_output_name")) != ("forward", _HIDDEN):
        raise ValueError("its first part is not a transformer that reads texts")
    known = transformer.model_forward_params
    return {
        name: value
        for name, value in transformer.preprocess(list(PROBES)).items()
        if torch.is_tensor(value) and (known is None or name in known)
    }


def _export(transformer: Any, inputs: dict[str, torch.Tensor], place: Path) -> None:
    """Write the transformer's graph and weights to a folder, in 8 bits."""
    exact = place / "float32"
    exact.mkdir()
    shape = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        torch.onnx.export(
            _Hidden(transformer.model, list(inputs)).eval(),
            tuple(inputs.values()),
            exact / _FILE,
            input_names=list(inputs),
            output_names=[_HIDDEN],
            dynamic_shapes=(tuple(shape for _ in inputs),),
            external_data=True,  # a file of protobuf ends at 2 GB
            dynamo=True,
            verbose=False,
        )
    _quantise(exact / _FILE, place / _FILE)
    shutil.rmtree(exact)


def _quantise(exact: Path, output: Path) -> None:
    """Weights of matrix products in 8 bits; activations are rounded as they come.

    Products that narrow, from the inner width of a layer to that of the model, stay float32: their
    activations have single large values, by which all others would be rounded.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = exact.with_name("prepared.onnx")
    quant_pre_process(
        exact,
        prepared,
        skip_optimization=True,  # a session does it, for its machine
        skip_symbolic_shape=True,
        save_as_external_data=True,
    )
    quantize_dynamic(
        prepared,
        output,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # without it, processors before VNNI overflow
        nodes_to_exclude=_narrowing(prepared),
        use_external_data_format=True,
    )


def _narrowing(path: Path) -> list[str]:
    """The products with a weight that has more rows than columns."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    weights = {
        node.name: shapes[name]
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if len(shapes.get(name, ())) == 2
    }
    return [name for name, (rows, columns) in weights.items() if rows > columns]


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_pattern = False  # it keeps a plan of memory for every shape it has seen
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, which `write` fills if it is not there. Of two processes, one writes.

    A process that is killed leaves a part, which the next one deletes. Raises OSError.
    """
    if folder.is_dir():  # it may lie where nothing can be written
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        _log.info("exporting the encoder to %s, once", folder)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            write(part)
            for path in part.iterdir():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync_folder(folder.parent)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Context manager that waits until this process alone holds the lock."""
    lock: BinaryIO | None = take(path)
    while lock is None:
        time.sleep(_WAIT_S)
        lock = take(path)
    with lock:
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager without the exporter's advice to its developers."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    # The quantiser logs by functions that set logging up for the whole process, if nothing has.
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(silent)
        exporter.setLevel(level)


def _not_exported(settings: EncoderSettings, reason: str) -> EncoderError:
    return EncoderError(
        f"the encoder model {settings.model!r} cannot be exported to ONNX ({reason}); set "
        "P4R_ENCODER__BACKEND=torch"
    )
