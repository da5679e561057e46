"""Encoders for tests: one without a model, and one that encodes each text once."""

import fcntl
import hashlib
import pickle
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import Encoder, EncoderOver
from p4r_qdrant.errors import TextsRefusedError

_WORD = re.compile(r"\w+")


class HashEncoder(Encoder):
    """Hashes words onto coordinates: fast and deterministic.

    Texts that share words are near each other, so rankings follow from the texts.
    `encoded` holds every text that was encoded, in order; `calls` counts the batches.

    A different `salt` makes a different encoder. Encoding more than `fail_after` texts raises
    KeyboardInterrupt. Texts that contain `cannot` are refused.
    """

    def __init__(
        self,
        dimension: int = 32,
        *,
        name: str = "hash-encoder",
        fingerprint: str = "hash-encoder-1",
        salt: str = "",
        fail_after: int | None = None,
        cannot: str | None = None,
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.fingerprint = fingerprint + salt
        self.salt = salt.encode()
        self.encoded: list[str] = []
        self.calls = 0
        self.fail_after = fail_after
        self.cannot = cannot

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        self.calls += 1
        if self.fail_after is not None and len(self.encoded) + len(batch) > self.fail_after:
            raise KeyboardInterrupt(f"killed after {len(self.encoded)} texts")
        self.encoded += batch
        rows = [self._row(text) for text in batch]
        vectors = normalised(np.array(rows, dtype=np.float32).reshape(len(batch), self.dimension))
        if self.cannot is not None and any(self.cannot in text for text in batch):
            refused = {row: "no" for row, text in enumerate(batch) if self.cannot in text}
            vectors[list(refused)] = np.nan
            raise TextsRefusedError(batch, refused, vectors)
        return vectors

    def _row(self, text: str) -> list[float]:
        row = [0.0] * self.dimension
        for word in _WORD.findall(text.lower()) or [text]:
            encoded = word.encode(errors="surrogatepass")
            digest = hashlib.blake2b(encoded, digest_size=8, key=self.salt).digest()
            number = int.from_bytes(digest, "big")
            row[number % self.dimension] += 1.0 if number >> 63 else -1.0
        if not any(row):
            row[0] = 1.0
        return row


class RememberingEncoder(EncoderOver):
    """An encoder that keeps the vector of each text in a file, for all workers of a test run."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        super().__init__(encoder)
        self._encoder = encoder
        self._path = path
        self._known: dict[str, Floats] = {}

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        if any(text not in self._known for text in batch):
            self._encode(batch)
        rows = [self._known[text] for text in batch]
        return np.array(rows, dtype=np.float32).reshape(len(batch), self.dimension)

    def _encode(self, batch: Sequence[str]) -> None:
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            with suppress(EOFError):
                while True:
                    self._known |= pickle.load(file)
            new = [text for text in dict.fromkeys(batch) if text not in self._known]
            vectors = dict(zip(new, self._encoder.encode_texts(new), strict=True))
            pickle.dump(vectors, file)
            self._known |= vectors
