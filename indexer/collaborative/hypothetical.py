"""Personas as hypothetical users: what each persona thinks of every item.

    A[p, i] = max over q in P_i of v_p . v_q        column means taken off

Row p is one more user of the catalogue, whose taste for every item is known. Each row keeps its
`keep` largest entries in absolute value, so that A stays sparse; together the rows are scaled to a
mean squared length of 1, so that a weight of A means the same with every encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Indexes = npt.NDArray[np.int64]

KEEP = 200
"""Entries of a row of A that stay."""

MOST_USERS = 50_000
"""Personas that become hypothetical users; of more, these many at equal distances are taken."""

MOST_FOR_MEANS = 8192
"""Personas whose mean is taken for the mean of all; at equal distances."""

BLOCK_BYTES = 256 * 2**20
"""Memory of a block of similarities."""


@dataclass(frozen=True)
class PersonaVectors:
    """The personas of a catalogue as vectors, item by item.

    items: ids. vectors: (n_personas, dim) float32, unit rows. starts: (n_items + 1,), where each
    item's personas begin; every item has one at least.
    """

    items: Sequence[str]
    vectors: Floats
    starts: Indexes

    @property
    def hash(self) -> str:
        """A hash of ids and vectors."""
        digest = hashlib.sha256("\n".join(self.items).encode())
        digest.update(self.starts.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]


def affinities(personas: PersonaVectors, columns: Indexes, n_items: int, keep: int) -> csr_matrix:
    """A, sharpened and scaled: (n_hypothetical_users, n_items) float32.

    columns: (len(personas.items),), the column of each item. Items without personas have empty
    columns.
    """
    from scipy.sparse import csr_matrix, vstack

    means = _means(personas)
    keep = min(keep, len(personas.items))
    blocks = []
    for rows in _blocks(personas, MOST_USERS):
        centred = _nearest(personas, rows) - means
        places = np.argpartition(-np.abs(centred), keep - 1, axis=1)[:, :keep]
        places.sort(axis=1)
        values = np.take_along_axis(centred, places, axis=1)
        ends = np.arange(0, values.size + 1, keep)
        block = csr_matrix(
            (values.ravel(), columns[places].ravel(), ends), shape=(len(rows), n_items)
        )
        blocks.append(block)
    matrix = vstack(blocks, format="csr", dtype=np.float32)
    matrix.sort_indices()
    squares = float(np.square(matrix.data, dtype=np.float64).sum()) / matrix.shape[0]
    return matrix / np.float32(np.sqrt(squares)) if squares else matrix


def _means(personas: PersonaVectors) -> Floats:
    """The mean of A over personas, for each item: (n_items,) float32."""
    total = np.zeros(len(personas.items))
    count = 0
    for rows in _blocks(personas, MOST_FOR_MEANS):
        total += _nearest(personas, rows).sum(axis=0, dtype=np.float64)
        count += len(rows)
    return (total / count).astype(np.float32)


def _nearest(personas: PersonaVectors, rows: Indexes) -> Floats:
    """For some personas the similarity to each item's nearest: (len(rows), n_items) float32."""
    near = personas.vectors[rows] @ personas.vectors.T
    best: Floats = np.maximum.reduceat(near, personas.starts[:-1], axis=1)
    return best


def _blocks(personas: PersonaVectors, most: int) -> Iterator[Indexes]:
    """Up to `most` personas at equal distances, as many at a time as a block can hold."""
    count = len(personas.vectors)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    size = max(1, BLOCK_BYTES // (8 * count))
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]
