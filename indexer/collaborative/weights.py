"""B: how much each item speaks for each other one.

EASE (Steck, WWW 2019, arXiv 1905.03375): of all B with an empty diagonal the one with the least
||X - X B||^2 + l ||B||^2, for rows X of users. With G = X'X + l I and P = G^-1, column i of B is
-P[:, i] / P[i, i].

`exact` inverts G. `by_neighbourhood` solves the same least squares for each item over its nearest
items alone, which needs no matrix of all pairs; with all items as neighbours it is EASE again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

MOST_ITEMS = 30_000
"""Items up to which B is exact: G takes 3.6 GB then."""

NEIGHBOURS = 300
"""Items that a column of B can be made of beyond that."""

COLUMNS_AT_ONCE = 512


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
    """
    from scipy.sparse import csc_matrix

    columns = rows.tocsc()
    by_item = columns.T.tocsr()
    n_items = rows.shape[1]
    places, values, ends = [], [], [0]
    for block in _blocks(n_items):
        together = (by_item @ columns[:, block]).tocsc()
        for item in range(block.start, block.stop):
            start, end = together.indptr[item - block.start : item - block.start + 2]
            near = _largest(together.indices[start:end], together.data[start:end], item, neighbours)
            own = columns[:, near]
            square = (own.T @ own).toarray().astype(np.float64)
            square[np.diag_indices_from(square)] += l2
            wanted = (own.T @ columns[:, [item]]).toarray().astype(np.float64)[:, 0]
            places.append(near)
            values.append(np.linalg.solve(square, wanted))
            ends.append(ends[-1] + len(near))
    data = np.concatenate(values).astype(np.float32)
    return csc_matrix((data, np.concatenate(places), ends), shape=(n_items, n_items))


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


def _largest(places: Floats, values: Floats, item: int, most: int) -> Floats:
    """The places of the `most` largest values, in order; without the item itself."""
    others = places != item
    places, values = places[others], np.abs(values[others])
    if len(places) > most:
        places = places[np.argpartition(-values, most - 1)[:most]]
    return np.sort(places)


def _blocks(count: int) -> list[slice]:
    starts = range(0, count, COLUMNS_AT_ONCE)
    return [slice(start, min(start + COLUMNS_AT_ONCE, count)) for start in starts]
