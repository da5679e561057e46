"""Items of random personas, as many as a benchmark asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from p4r_qdrant import ItemVectors, Persona
from p4r_qdrant.arrays import Floats

DIMENSION = 384


@dataclass
class Catalogue:
    """Synthetic items of 2 to 7 personas, in one matrix of unit rows, and the texts they have."""

    matrix: Floats
    starts: npt.NDArray[np.int64]

    description: ClassVar[str] = "Who this is, in two sentences. " * 6
    rationale: ClassVar[str] = "Why the item suits them. " * 6
    texts: ClassVar[dict[str, str]] = {
        "item_title": "A title of ordinary length",
        "summary": "What the item is, in two sentences. " * 5,
    }

    @classmethod
    def of(cls, personas: int) -> Catalogue:
        random = np.random.default_rng(0)
        sizes = random.integers(2, 8, personas // 4)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        starts = starts[starts <= personas]
        matrix = random.standard_normal((int(starts[-1]), DIMENSION), dtype=np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return cls(matrix, starts)

    @property
    def items(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> Iterator[ItemVectors]:
        for number in range(self.items):
            vectors = self.matrix[self.starts[number] : self.starts[number + 1]]
            personas = [
                Persona(
                    persona_id=f"item-{number}_P{slot}",
                    name=f"Reader {slot}",
                    description=self.description,
                    preference_rationale=self.rationale,
                )
                for slot in range(len(vectors))
            ]
            yield ItemVectors(f"item-{number}", personas, vectors, self.texts)
