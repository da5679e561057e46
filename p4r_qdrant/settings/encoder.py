"""The text encoder, and how a user vector is made from a history."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from p4r_qdrant.settings.section import (
    PLAINTEXT_KEY,
    OptionalSecret,
    OptionalText,
    Section,
    check_address,
)


class EncoderSettings(Section):
    """The text encoder: a sentence-transformers model, or a model behind an HTTP endpoint."""

    model: str = Field(
        "BAAI/bge-m3",
        min_length=1,
        description="Folder or Hugging Face name of the sentence-transformers model, or "
        "all-MiniLM-L6-v2 (bundled); with `base_url`, the name of the model there.",
    )
    adapter: OptionalText = Field(None, description="Folder of a LoRA adapter for the model.")
    query_prompt: str = Field(
        "",
        description="Text before each text of a history, as asymmetric models want it: "
        "'query: ' for e5. It is a part of the fingerprint.",
    )
    document_prompt: str = Field(
        "",
        description="Text before each text of a persona: 'passage: ' for e5. If one of both is "
        "set, a default prompt of the model's own does not count.",
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens that the encoder reads of a text, its prompt included; longer texts of "
        "histories lose a part of the item's summary. Unset: as many as the model says; behind an "
        "endpoint this is not known, and the server cuts. There, tokens are guessed: one for "
        "three bytes.",
    )
    allow_model_code: bool = Field(
        False,
        description="Let the model run Python code of its own, with all rights of this process "
        "(trust_remote_code). Only for code that you have read.",
    )
    device: str = Field(
        "auto",
        description="Device of the model: auto, cpu, cuda, mps, cuda:1. Several, separated by "
        "commas (cuda:0,cuda:1), share large batches.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Number format of the model's weights. auto: bfloat16 or float16 on a GPU, "
        "else float32.",
    )
    batch_size: int = Field(64, ge=1, description="Texts that are encoded in one batch.")
    backend: Literal["torch", "onnx-int8"] = Field(
        "torch",
        description="What runs the model in this process. onnx-int8: ONNX Runtime on the CPU, with "
        "weights and activations of 8 bits. It has a fingerprint of its own.",
    )
    onnx_folder: OptionalText = Field(
        None,
        description="Folder of the models that were exported for `backend`. Unset: p4r-onnx in the "
        "folder of Hugging Face (HF_HOME, or ~/.cache/huggingface).",
    )
    base_url: OptionalText = Field(
        None,
        description="Address of an OpenAI-compatible endpoint with /embeddings, such as "
        "http://localhost:8080/v1. Unset: the model runs in this process.",
    )
    api_key: OptionalSecret = Field(None, description="API key of the encoder's endpoint.")
    timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds that one batch may take at the endpoint, with all its retries.",
    )
    concurrency: int = Field(
        8, ge=1, le=1000, description="Batches that are sent to the endpoint at the same time."
    )
    cache_mb: float = Field(
        64.0,
        ge=0,
        description="Megabytes of memory for the vectors of texts that this process has encoded, "
        "so that none is encoded twice. 0: no cache.",
    )
    allow_plaintext_key: bool = Field(False, description=PLAINTEXT_KEY)

    @model_validator(mode="after")
    def _check_backend(self) -> EncoderSettings:
        if self.backend == "torch":
            return self
        if self.device not in ("auto", "cpu") or self.dtype not in ("auto", "float32"):
            raise ValueError(
                f"the backend {self.backend} has its own device, the CPU, and its own dtype: "
                "unset both, or set backend to torch"
            )
        return self

    @model_validator(mode="after")
    def _check_endpoint(self) -> EncoderSettings:
        if self.base_url is None:
            return self
        if self.backend != "torch":
            raise ValueError(
                "backend is for a model in this process: unset base_url, or set backend to torch"
            )
        check_address(
            self.base_url,
            "base_url",
            "https://host/v1 or http://localhost:8080/v1",
            "ENCODER",
            key_in_the_clear=bool(self.api_key) and not self.allow_plaintext_key,
        )
        if self.adapter is not None:
            raise ValueError(
                "an adapter needs a model in this process: unset base_url, or let the endpoint "
                "serve the model with its adapter and unset adapter"
            )
        return self


class HistorySettings(Section):
    """How a user vector is made from a user's interactions (Eq. 7)."""

    length: int = Field(10, ge=1, description="Number of newest interactions that count: L.")
    decay: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Weight of an interaction relative to the next newer one: g. 1: all weights "
        "are equal.",
    )
