"""What a generator is: settings to try, and scores of all items for some users."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from indexer.evaluation.interactions import Indexes, Interactions
from p4r_qdrant.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.floating[Any]]

Scores = Callable[[Indexes], Floats]
"""Scores of all items, (n_users, n_items), for users by position."""

MODELS = ("bpr", "lightgcn", "itemknn", "ease", "popularity")

_NEEDS = {"bpr": "torch_geometric", "itemknn": "implicit", "lightgcn": "torch_geometric"}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model: the settings it was fitted with, and what it says."""

    settings: Mapping[str, Any]
    scores: Scores


class Generator(Protocol):
    """A module of this package. `SETTINGS`: how many models `fitted` yields."""

    SETTINGS: int

    def fitted(self, training: csr_matrix, seed: int) -> Iterator[Fitted]:
        """Fit each setting of the grid to `training`, (n_users, n_items) of 1.0."""


def generator_named(name: str) -> Generator:
    """The module of a model; raises InputError for an unknown name, MissingExtraError."""
    if name not in MODELS:
        raise InputError(f"there is no generator {name!r}; choose one of {', '.join(MODELS)}")
    for package in ("scipy", _NEEDS.get(name, "scipy")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the generator {name} needs {package}: pip install 'p4r-qdrant[candidates]'"
            )
    return cast("Generator", importlib.import_module(f"indexer.evaluation.generators.{name}"))


def matrix(training: Interactions) -> csr_matrix:
    """Training interactions as a sparse matrix of 1.0, (n_users, n_items) float32."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(training.user_of), dtype=np.float32)
    shape = (len(training.users), len(training.items))
    return csr_matrix((ones, (training.user_of, training.item_of)), shape=shape)


def factor_scores(user_factors: Floats, item_factors: Floats) -> Scores:
    """Scores as inner products of (n_users, dim) and (n_items, dim)."""

    def scores(users: Indexes) -> Floats:
        return user_factors[users] @ item_factors.T

    return scores
