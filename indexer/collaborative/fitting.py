"""Fit the collaborative model for an index: interactions and personas in, columns of B out.

    X = [R ; a A],  B = EASE(X)

a^2 is the share of the personas times the number of users per persona, so that with a share of 1
both halves weigh as much. Without any interaction, B is that of the personas alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from indexer.collaborative.finished import KEPT_NOWHERE, Arrays, Finished
from indexer.collaborative.hypothetical import MOST_USERS, PersonaVectors, affinities
from indexer.collaborative.weights import (
    BLOCK_BYTES,
    KNOWN,
    MOST_ITEMS,
    NEIGHBOURS,
    Indexes,
    exact,
    neighbourhood_columns,
)
from indexer.evaluation.interactions import Interactions
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.columns import Column, Numbers
from p4r_qdrant.settings import CollaborativeSettings

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from p4r_qdrant.arrays import Floats

Method = Literal["exact", "by neighbourhood"]

COLUMNS_A_BLOCK = 4096
"""Columns that a kill costs at most, some 15 seconds."""

ALGORITHM = 1
"""Changes whenever the same inputs give other columns."""

_GB = 1e9


@dataclass(frozen=True)
class Inputs:
    """What B is fitted on.

    interactions: with an item for each of the personas. numbers: item id -> number, for all items.
    catalogue: the items that may be recommended; the others keep their rows, since histories hold
    them, and lose their columns. held_out: interactions of splits.jsonl that are among them.
    training_only: they were left out. training: `training_hash` of the interactions.
    """

    interactions: Interactions
    personas: PersonaVectors
    numbers: Mapping[str, int]
    catalogue: Collection[str]
    settings: CollaborativeSettings
    held_out: int = 0
    training_only: bool = False
    training: str = ""

    @property
    def description(self) -> dict[str, Any]:
        """The settings and sizes of the fit, for the record of the index."""
        own = self.settings
        return {
            "share": own.share,
            "l2": own.l2,
            "keep": own.keep,
            "decay": own.decay,
            "method": self.method,
            "users": len(self.interactions.users),
            "interactions": len(self.interactions.user_of),
            "held_out": self.held_out,
            "training_only": self.training_only,
            "training": self.training,
        }

    @property
    def method(self) -> Method:
        """How B is fitted. Raises InputError if the memory of the settings is too small."""
        return method_for(
            len(self.interactions.items),
            len(self.interactions.user_of),
            self.personas.vectors.shape,
            self.settings,
        )

    @property
    def hash(self) -> str:
        """A hash of everything that the columns depend on."""
        own = self.interactions
        fitted = {name: one for name, one in self.description.items() if name != "decay"}
        settings = [ALGORITHM, self.settings.columns, fitted]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in own.items:
            line = [name, self.numbers[name], name in self.catalogue]
            digest.update(json.dumps(line).encode())
        digest.update(own.user_of.astype("<i8").tobytes() + own.item_of.astype("<i8").tobytes())
        digest.update(self.personas.hash.encode())
        return digest.hexdigest()[:16]


def method_for(
    n_items: int, n_interactions: int, personas: tuple[int, ...], settings: CollaborativeSettings
) -> Method:
    """Exact, if there are few enough items and enough memory for it.

    personas: the shape of their vectors, (n_personas, dim). Raises InputError, with the setting, if
    even the approximation takes more memory than allowed.
    """
    allowed = settings.memory_gb * _GB
    needed = _memory(n_items, n_interactions, personas, settings)
    if n_items <= MOST_ITEMS and needed["exact"] <= allowed:
        return "exact"
    if needed["by neighbourhood"] <= allowed:
        return "by neighbourhood"
    least = min(needed.values()) if n_items <= MOST_ITEMS else needed["by neighbourhood"]
    raise InputError(
        f"the collaborative part of {n_items:,} items takes about {least / _GB:.1f} GB of memory, "
        f"and P4R_COLLABORATIVE__MEMORY_GB allows {settings.memory_gb:g}: raise it, or publish "
        "with --no-collaborative"
    )


def _memory(
    n_items: int, n_interactions: int, personas: tuple[int, ...], settings: CollaborativeSettings
) -> dict[Method, float]:
    """Bytes of a fit, by method. The rows of X, the vectors and their copies are in both."""
    n_personas, dimension = personas
    opinions = min(n_personas, MOST_USERS) * min(settings.keep, n_items)
    rows = 24.0 * (n_interactions + opinions) + 8.0 * n_personas * dimension
    columns = 24.0 * n_items * min(settings.columns, n_items)
    kept = n_items * min(KNOWN * NEIGHBOURS + 1, n_items)  # of X'X
    near = 8.0 * kept + BLOCK_BYTES
    return {
        "exact": rows + 4.0 * n_items * n_items + columns,
        "by neighbourhood": rows + near + columns,
    }


def fitted_columns(inputs: Inputs, finished: Finished = KEPT_NOWHERE) -> Iterator[Column]:
    """The columns of B, of all items that have a number; the largest entries of each.

    finished: parts of this fit by neighbourhood that are done. Raises InputError if the memory of
    the settings is too small, or l2.
    """
    items, most = inputs.interactions.items, inputs.settings.columns
    numbers = np.array([inputs.numbers[one] for one in items], dtype=np.uint32)
    if inputs.method == "exact":
        weights = _exact_columns(extended(inputs), inputs.settings.l2)
    else:
        weights = _kept_columns(inputs, finished)
    for item_id, number, (places, values) in zip(items, numbers, weights, strict=True):
        if item_id in inputs.catalogue:
            yield Column(item_id, int(number), *_largest(numbers[places], values, most))
        else:
            yield Column.empty(item_id, int(number))
    fitted = set(items)
    for item_id, number in inputs.numbers.items():
        if item_id not in fitted:
            yield Column.empty(item_id, number)


def extended(inputs: Inputs, finished: Finished = KEPT_NOWHERE) -> csr_matrix:
    """X, (n_users + n_personas, n_items) float32. finished: may hold A."""
    own, personas = inputs.interactions, inputs.personas
    from scipy.sparse import csr_matrix

    shape = (len(own.users), len(own.items))
    ones = np.ones(len(own.user_of), np.float32)
    users = csr_matrix((ones, (own.user_of, own.item_of)), shape=shape)
    if not len(personas.items) or not inputs.settings.share:
        return users
    columns = np.searchsorted(own.items, personas.items)

    def parts() -> Arrays:
        made = affinities(personas, columns, len(own.items), inputs.settings.keep)
        return {"data": made.data, "indices": made.indices, "indptr": made.indptr}

    held = finished.get("affinities", parts)
    ends = held["indptr"]
    hypothetical = csr_matrix(
        (held["data"], held["indices"], ends), shape=(len(ends) - 1, len(own.items))
    )
    return with_hypothetical(users, hypothetical, inputs.settings.share)


def with_hypothetical(users: csr_matrix, hypothetical: csr_matrix, share: float) -> csr_matrix:
    """The rows of users, (n_users, n_items), above those of personas, (n_personas, n_items).

    share: the weight of all personas together, relative to that of all users.
    """
    from scipy.sparse import vstack

    each = (users.shape[0] or hypothetical.shape[0]) / hypothetical.shape[0]
    return vstack([users, hypothetical * np.float32(np.sqrt(share * each))], format="csr")


def _exact_columns(rows: csr_matrix, l2: float) -> Iterator[tuple[Indexes, Floats]]:
    """As `neighbourhood_columns`, over all items."""
    for column in exact(rows, l2).T:
        places = np.flatnonzero(column)
        yield places, column[places]


def _kept_columns(inputs: Inputs, finished: Finished) -> Iterator[tuple[Indexes, Floats]]:
    """The columns of `neighbourhood_columns`, in blocks that may be finished."""
    count = len(inputs.interactions.items)
    columns: Iterator[tuple[Indexes, Floats]] = iter(())
    next_column = -1

    def block(first: int) -> Arrays:
        nonlocal columns, next_column
        if next_column != first:
            rows = extended(inputs, finished)
            columns = neighbourhood_columns(rows, inputs.settings.l2, first=first)
        next_column = first + COLUMNS_A_BLOCK
        cut = [
            _largest(places.astype(np.uint32), values, inputs.settings.columns)
            for places, values in islice(columns, COLUMNS_A_BLOCK)
        ]
        places, values = (np.concatenate(own) for own in zip(*cut, strict=True))
        return {"places": places, "values": values, "ends": np.cumsum([len(own) for own, _ in cut])}

    for first in range(0, count, COLUMNS_A_BLOCK):
        held = finished.get(f"columns-{first}", partial(block, first))
        ends = held["ends"][:-1]
        yield from zip(np.split(held["places"], ends), np.split(held["values"], ends), strict=True)


def _largest(numbers: Numbers, values: Floats, most: int) -> tuple[Numbers, Floats]:
    """The `most` largest entries of a column without zeros, in the order of their numbers."""
    if len(values) > most:
        largest = np.argpartition(-np.abs(values), most - 1)[:most]
        numbers, values = numbers[largest], values[largest]
    order = np.argsort(numbers)
    kept = order[values[order] != 0]
    return numbers[kept], values[kept]
