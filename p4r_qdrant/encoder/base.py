"""The contract of every encoder: texts to vectors, and Eq. 6-8 on top of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.lengths import Lengths
from p4r_qdrant.encoder.user_vector import (
    EncodedHistories,
    UserVector,
    history_texts,
    rows_of_texts,
)
from p4r_qdrant.records import Interaction, Persona

MODEL, ENDPOINT, VECTORS = "model", "endpoint", "vectors"
"""Kinds of encoders: a model in this process, a model behind an endpoint, given vectors."""


class Encoder(ABC):
    """Eq. 6-8 over any way of encoding texts.

    `name` is for people; `fingerprint` tells two encoders apart: vectors made under different
    fingerprints must never be compared. `dimension` is the width of the vectors.

    An index stores `kind`, `model`, `adapter` and `options` (other `EncoderSettings` that change
    vectors), so that another process can load the same encoder. An encoder with another `kind`
    must be passed to each process. The cosine of two vectors of one text, encoded at different
    times, is at least 1 - `tolerance`.

    `query_prompt` stands before each text of a history, `document_prompt` before each text of a
    persona. `lengths` knows what the model reads of a text; None if it reads all, or if what it
    reads is not known.
    """

    name: str
    dimension: int
    fingerprint: str
    kind: str = ""
    model: str = ""
    adapter: str = ""
    options: Mapping[str, Any] = MappingProxyType({})
    query_prompt: str = ""
    document_prompt: str = ""
    lengths: Lengths | None = None
    tolerance: float = 1e-3
    workers: int = 1
    """Number of large batches that are encoded at the same time."""

    @abstractmethod
    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Thread-safe.

        The texts are encoded as they are. Raises TextsRefusedError if some of them cannot be.
        """

    def query_inputs(self, batch: Sequence[str]) -> list[str]:
        """What the model gets to read of texts of histories: with the prompt, and not too long."""
        if self.lengths is not None:
            return self.lengths.of_histories(self.query_prompt, batch)
        return [self.query_prompt + text for text in batch]

    def document_inputs(self, batch: Sequence[str]) -> list[str]:
        """What the model gets to read of texts of personas: with the prompt."""
        inputs = [self.document_prompt + text for text in batch]
        return inputs if self.lengths is None else self.lengths.of_personas(inputs)

    def encode_queries(self, batch: Sequence[str]) -> Floats:
        """e_uj of texts of histories (Eq. 6): (n, dim) float32, L2-normalised."""
        return self.encode_texts(self.query_inputs(batch))

    def encode_documents(self, batch: Sequence[str]) -> Floats:
        """v_p of texts of personas (Eq. 8): (n, dim) float32, L2-normalised."""
        return self.encode_texts(self.document_inputs(batch))

    def on_all_devices(self) -> AbstractContextManager[None]:
        """Context manager that spreads large batches over all devices."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what the encoder holds. Closing twice is fine."""

    def encode_personas(self, personas: Sequence[Persona], summary: str = "") -> Floats:
        """v_p of an item's personas (Eq. 8): (n, dim) float32, L2-normalised."""
        return self.encode_documents(texts.persona_texts(personas, summary))

    def user_vectors(
        self, histories: Sequence[Sequence[Interaction]], *, length: int, decay: float
    ) -> list[UserVector | None]:
        """h_u of each history (Eq. 6 and 7); None for a history without interactions.

        Histories may come in any order. All texts of all users are encoded as one batch, each
        distinct text once.
        """
        users = [history_texts(history, length) for history in histories]
        row_of = rows_of_texts(users)
        embeddings = (
            self.encode_queries(list(row_of))
            if row_of
            else np.zeros((0, self.dimension), dtype=np.float32)
        )
        return EncodedHistories(users, row_of, embeddings).user_vectors(length, decay)


class EncoderOver(Encoder):
    """An encoder that answers in the place of another one, whose inputs it takes."""

    def __init__(self, encoder: Encoder) -> None:
        self.name = encoder.name
        self.dimension = encoder.dimension
        self.fingerprint = encoder.fingerprint
        self.query_prompt = encoder.query_prompt
        self.document_prompt = encoder.document_prompt
        self.lengths = encoder.lengths
