"""Arrays of vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def normalised(vectors: npt.ArrayLike) -> Floats:
    """Rows scaled to unit length: (n, dim) float32. A zero row stays zero, NaN stays NaN."""
    matrix = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    scaled: Floats = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms != 0)
    return scaled
