"""B: how much each item speaks for each other one.

EASE (Steck, WWW 2019, arXiv 1905.03375): of all B with an empty diagonal the one with the least
||X - X B||^2 + l ||B||^2, for rows X of users. With G = X'X + l I and P = G^-1, column i of B is
-P[:, i] / P[i, i].

`exact` inverts G. `by_neighbourhood` solves the same least squares for each item over its nearest
items alone, which needs no matrix of all pairs; with all items as neighbours it is EASE again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

MOST_ITEMS = 30_000
"""Items up to which B is exact: G takes 3.6 GB then."""

NEIGHBOURS = 300
"""Items that a column of B can be made of beyond that."""

KNOWN = 2
"""Entries of X'X that are kept for each neighbour."""

COLUMNS_AT_ONCE = 512

BLOCK_BYTES = 512 * 2**20
"""Memory that so many columns of X'X may take, at 24 bytes an entry; else fewer are made."""

Indexes = npt.NDArray[np.integer[Any]]
Doubles = npt.NDArray[np.float64]


def exact(rows: csr_matrix, l2: float) -> Floats:
    """B for users (n_users, n_items): (n_items, n_items) float32.

    Memory: 4 n_items^2 bytes, and three times that of `rows`.

    Raises InputError where l2 is too small for float32 to invert G.
    """
    from scipy.linalg import lapack

    g: Floats
    g, failed = lapack.spotrf(_gram(rows, l2), lower=1, clean=0, overwrite_a=1)
    if not failed:
        g, failed = lapack.spotri(g, lower=1, overwrite_c=1)
    if failed:
        raise InputError(f"EASE cannot be solved with l2 = {l2:g}; choose a larger one")
    scale = -1 / np.diag(g)
    for block in _blocks(len(g)):  # LAPACK has filled the lower half
        g[: block.stop, block] = _upper(g, block)
    g *= scale
    np.fill_diagonal(g, 0)
    return g


def by_neighbourhood(rows: csr_matrix, l2: float, neighbours: int = NEIGHBOURS) -> csc_matrix:
    """B of `neighbourhood_columns` as a matrix: (n_items, n_items) float32, sparse."""
    from scipy.sparse import csc_matrix

    n_items = rows.shape[1]
    columns = list(neighbourhood_columns(rows, l2, neighbours))
    ends = np.cumsum([0, *(len(places) for places, _ in columns)])
    places, values = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return csc_matrix((values, places, ends), shape=(n_items, n_items))


def neighbourhood_columns(
    rows: csr_matrix, l2: float, neighbours: int = NEIGHBOURS, first: int = 0
) -> Iterator[tuple[Indexes, Floats]]:
    """The columns of B for users (n_users, n_items), in order, each over the `neighbours` items
    with the largest entries of X'X in it. first: the first column that is wanted.

    Of X'X itself, KNOWN times as many entries of each column are kept, and the others count as 0.
    On random interactions that changes nothing in the third digit.

    Memory: 8 bytes for each entry of X'X that is kept, and that of a block of it.

    Yields: the items of a column in order, and their weights, float32.
    """
    from scipy.linalg import lapack
    from threadpoolctl import ThreadpoolController

    threads = ThreadpoolController()
    gram = _LargestOfGram.of(rows, KNOWN * neighbours)
    n_items = rows.shape[1]
    position = np.full(n_items, neighbours, dtype=np.int32)
    for item in range(first, n_items):
        places, values = gram.column(item)
        near = _largest(places, values, item, neighbours)
        if not len(near):  # nobody has this item and another one
            yield near, np.zeros(0, np.float32)
            continue
        square = gram.between(near, position)
        square[np.diag_indices_from(square)] += l2
        wanted = values[np.searchsorted(places, near)].astype(np.float64)
        with threads.limit(limits=1):  # they wait for each other for longer than they work
            _, weights, failed = lapack.dposv(square, wanted)
            if failed:  # entries that are not kept can cost X'X its positive eigenvalues
                weights = np.linalg.solve(square, wanted)
        yield near, weights.astype(np.float32)


@dataclass(frozen=True)
class _LargestOfGram:
    """X'X with its diagonal and the largest other entries of each column.

    places, values: (n_items, most + 1), int32 and float32, a line for each column, of which
    the first `counts` (n_items,) are filled.
    """

    places: npt.NDArray[np.int32]
    values: Floats
    counts: Indexes

    @classmethod
    def of(cls, rows: csr_matrix, most: int) -> _LargestOfGram:
        columns = rows.tocsc()
        by_item = columns.T.tocsr()
        n_items = rows.shape[1]
        shape = (n_items, min(most + 1, n_items))
        found = cls(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(n_items, int))
        for block in _blocks(n_items):
            together = (by_item @ columns[:, block]).tocsc()
            together.sort_indices()
            for item in range(block.start, block.stop):
                own = slice(*together.indptr[item - block.start : item - block.start + 2])
                found._keep(item, together.indices[own], together.data[own], most)
        return found

    def _keep(self, item: int, places: Indexes, values: Floats, most: int) -> None:
        chosen = _largest(places, values, item, most)
        if item in places:  # else nobody has it
            chosen = np.sort(np.append(chosen, item))
        self.counts[item] = len(chosen)
        self.places[item, : len(chosen)] = chosen
        self.values[item, : len(chosen)] = values[np.searchsorted(places, chosen)]

    def column(self, item: int) -> tuple[Indexes, Floats]:
        """The places of a column's entries, in order, and the entries."""
        count = self.counts[item]
        return self.places[item, :count], self.values[item, :count]

    def between(self, near: Indexes, position: npt.NDArray[np.int32]) -> Doubles:
        """The entries among some items, (n, n) float64.

        One that is kept in either of its columns counts. position: (n_items,), all of one value
        that is n or more, and so afterwards.
        """
        elsewhere = position[0]
        position[near] = np.arange(len(near))
        square = np.zeros((len(near), len(near)))
        columns = np.take(position, self.places[near])
        position[near] = elsewhere
        columns[np.arange(columns.shape[1]) >= self.counts[near][:, None]] = elsewhere
        inside = np.flatnonzero(columns != elsewhere)
        cells = columns.ravel()[inside] + len(near) * (inside // columns.shape[1])
        square.ravel()[cells] = self.values[near].ravel()[inside]
        return np.where(square != 0, square, square.T)


def _gram(rows: csr_matrix, l2: float) -> Floats:
    """G = X'X + l I, (n_items, n_items) float32 in the column order that LAPACK works in."""
    n_items = rows.shape[1]
    gram = np.empty((n_items, n_items), dtype=np.float32, order="F")
    by_item, columns = rows.T.tocsr(), rows.tocsc()
    for block in _blocks(n_items):
        gram[:, block] = (by_item @ columns[:, block]).toarray()
    gram[np.diag_indices_from(gram)] += np.float32(l2)
    return gram


def _upper(lower: Floats, block: slice) -> Floats:
    """Columns of a symmetric matrix from its lower half, down to the end of the diagonal block."""
    square = np.tril(lower[block, block])
    return np.vstack([lower[block, : block.start].T, square + np.tril(square, -1).T])


def _largest(places: Indexes, values: Floats, item: int, most: int) -> Indexes:
    """The places of the `most` largest values, in order; without the item itself."""
    others = places != item
    places, values = places[others], np.abs(values[others])
    if len(places) > most:
        places = places[np.argpartition(-values, most - 1)[:most]]
    return np.sort(places)


def _blocks(count: int) -> list[slice]:
    size = max(1, min(COLUMNS_AT_ONCE, BLOCK_BYTES // (24 * count))) if count else 1
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
