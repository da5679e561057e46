"""An encoder that stores the vector of each text on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.progress import SILENT, Progress
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder, EncoderOver
from p4r_qdrant.errors import InputError
from p4r_qdrant.whole_files import opened_privately

CHUNK = 256
"""Texts that are encoded and stored at once: a kill loses at most so many vectors."""


class CachedEncoder(EncoderOver):
    """Wraps an encoder and stores its vectors in a folder, by its fingerprint.

    FINGERPRINT.texts.jsonl holds the texts, one JSON string a line; FINGERPRINT.f32 their vectors
    in that order, (n, dim) float32. A record that a kill left incomplete is cut off.
    """

    def __init__(self, encoder: Encoder, folder: Path, progress: Progress = SILENT) -> None:
        super().__init__(encoder)
        self._encoder = encoder
        self._progress = progress
        self.texts_path = folder / f"{encoder.fingerprint}.texts.jsonl"
        self._vectors_path = folder / f"{encoder.fingerprint}.f32"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._texts_file = opened_privately(self.texts_path, "a+b")
            self._vectors_file = self._vectors_path.open("a+b")
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}") from None
        self._rows = {text: row for row, text in enumerate(self._whole_records())}

    def _whole_records(self) -> list[str]:
        """Read the texts that have a vector; cut off an incomplete record."""
        width = 4 * self.dimension
        known = self._vectors_path.stat().st_size // width
        texts: list[str] = []
        end = 0
        self._texts_file.seek(0)
        for line in self._texts_file:
            if len(texts) == known or not line.endswith(b"\n"):
                break
            texts.append(json.loads(line))
            end += len(line)
        self._texts_file.truncate(end)
        self._vectors_file.truncate(len(texts) * width)
        return texts

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts among these that have no vector yet."""
        return [text for text in dict.fromkeys(texts) if text not in self._rows]

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised; only texts without a stored vector are encoded."""
        # Longest last: an encoder pads a chunk to its longest text.
        new = sorted(self.missing(batch), key=len)
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            vectors = np.ascontiguousarray(self._encoder.encode_texts(chunk), dtype=np.float32)
            self._vectors_file.write(vectors.tobytes())
            self._vectors_file.flush()
            lines = [f"{json.dumps(text, ensure_ascii=False)}\n" for text in chunk]
            self._texts_file.write("".join(lines).encode())
            self._texts_file.flush()
            for text in chunk:
                self._rows[text] = len(self._rows)
            self._progress.advance(len(chunk))
        if not batch:
            return np.zeros((0, self.dimension), dtype=np.float32)
        shape = (len(self._rows), self.dimension)
        held = np.memmap(self._vectors_path, dtype=np.float32, mode="r", shape=shape)
        return np.array(held[[self._rows[text] for text in batch]])

    def close(self) -> None:
        """Close the files."""
        self._texts_file.close()
        self._vectors_file.close()
