"""B: how much each item speaks for each other one.

EASE (Steck, WWW 2019, arXiv 1905.03375): of all B with an empty diagonal the one with the least
||X - X B||^2 + l ||B||^2, for rows X of users. With G = X'X + l I and P = G^-1, column i of B is
-P[:, i] / P[i, i].

`exact` inverts G. `by_neighbourhood` solves the same least squares for each item over its nearest
items alone, which needs no matrix of all pairs; with all items as neighbours it is EASE again.
"""

from __future__ import annotations

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
    """B for users (n_users, n_items), each column over the `neighbours` items with the largest
    entries of X'X in it: (n_items, n_items) float32, sparse.

    Of X'X itself, KNOWN times as many entries of each column are kept, and the others count as 0.
    On random interactions that changes nothing in the third digit.
    """
    from scipy.sparse import csc_matrix

    gram = _largest_of_gram(rows, KNOWN * neighbours)
    n_items = rows.shape[1]
    position = np.full(n_items, -1, dtype=np.int32)
    places, values, ends = [], [], [0]
    for item in range(n_items):
        own = slice(*gram.indptr[item : item + 2])
        near = _largest(gram.indices[own], gram.data[own], item, neighbours)
        square = _between(gram, near, position)
        square[np.diag_indices_from(square)] += l2
        wanted = gram.data[own][np.searchsorted(gram.indices[own], near)]
        places.append(near)
        values.append(np.linalg.solve(square, wanted.astype(np.float64)))
        ends.append(ends[-1] + len(near))
    data = np.concatenate(values).astype(np.float32)
    return csc_matrix((data, np.concatenate(places), ends), shape=(n_items, n_items))


def _largest_of_gram(rows: csr_matrix, most: int) -> csc_matrix:
    """X'X with its diagonal and the `most` other largest entries of each column, in order."""
    from scipy.sparse import csc_matrix

    columns = rows.tocsc()
    by_item = columns.T.tocsr()
    n_items = rows.shape[1]
    places, values, ends = [], [], [0]
    for block in _blocks(n_items):
        together = (by_item @ columns[:, block]).tocsc()
        together.sort_indices()
        for item in range(block.start, block.stop):
            own = slice(*together.indptr[item - block.start : item - block.start + 2])
            found, products = together.indices[own], together.data[own]
            chosen = _largest(found, products, item, most)
            if item in found:  # else nobody has it
                chosen = np.sort(np.append(chosen, item))
            places.append(chosen)
            values.append(products[np.searchsorted(found, chosen)])
            ends.append(ends[-1] + len(chosen))
    return csc_matrix(
        (np.concatenate(values), np.concatenate(places), ends), shape=(n_items, n_items)
    )


def _between(gram: csc_matrix, near: Indexes, position: Indexes) -> Doubles:
    """The entries of a symmetric matrix among some items, (n, n) float64.

    One that is kept in either of its columns counts. position: (n_items,) of -1, and so afterwards.
    """
    starts = gram.indptr[near]
    counts = gram.indptr[near + 1] - starts
    ends = np.cumsum(counts)
    entries = np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())
    position[near] = np.arange(len(near))
    row_of = position[gram.indices[entries]]
    position[near] = -1
    inside = row_of >= 0
    square = np.zeros((len(near), len(near)))
    square[row_of[inside], np.repeat(np.arange(len(near)), counts)[inside]] = gram.data[
        entries[inside]
    ]
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
    starts = range(0, count, COLUMNS_AT_ONCE)
    return [slice(start, min(start + COLUMNS_AT_ONCE, count)) for start in starts]
