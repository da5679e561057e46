"""An encoder whose similarities can be computed by hand: one coordinate for each known word."""

import re
from collections.abc import Sequence

import numpy as np

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import Encoder


class WordEncoder(Encoder):
    """Counts the known words and ignores others. `encoded` holds every text, in order."""

    def __init__(self, *words: str) -> None:
        self.name = self.fingerprint = "words"
        self.dimension = len(words)
        self.encoded: list[str] = []
        self._words = words

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        self.encoded += batch
        rows = np.zeros((len(batch), self.dimension), dtype=np.float32)
        for row, text in enumerate(batch):
            found = re.findall(r"\w+", text.lower())
            rows[row] = [found.count(word) for word in self._words]
        return normalised(rows)
