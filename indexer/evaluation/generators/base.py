"""The interface of a generator: a grid of settings, and scores of all items for some users."""

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

DECAYS = (1.0, 0.95, 0.85, 0.7)
"""Weights of an interaction relative to the user's next newer one, in item-to-item models."""

Scores = Callable[[Indexes], Floats]
"""Scores of all items, (n_users, n_items), for users by position."""

MODELS = ("bpr", "lightgcn", "itemknn", "ease", "popularity")
"""Generators that read interactions alone: the modules of this package."""

SEEDED = ("bpr", "lightgcn")
"""Those of them whose lists depend on the seed (see `pairwise`)."""

PERSONAS_EASE = "personas-ease"
"""The generator that reads personas too (see `personas_ease`)."""

HYBRID = "hybrid"
"""The generator that combines personas-ease with persona scores (see `hybrid`)."""

READ_PERSONAS = (PERSONAS_EASE, HYBRID)
"""Generators that read personas: no baselines."""

GENERATORS = (*MODELS, *READ_PERSONAS)

_NEEDS = {"bpr": "torch_geometric", "itemknn": "implicit", "lightgcn": "torch_geometric"}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model: its settings and its scores."""

    settings: Mapping[str, Any]
    scores: Scores


class Generator(Protocol):
    """A module of this package, or `PersonasEase`. `SETTINGS`: the number of models of `fitted`."""

    SETTINGS: int

    def fitted(self, training: Interactions, seed: int) -> Iterator[Fitted]:
        """Fit each setting of the grid."""


def check_generator(name: str) -> None:
    """Raise InputError for an unknown name, MissingExtraError where a package is missing."""
    if name not in GENERATORS:
        raise InputError(f"there is no generator {name!r}; choose one of {', '.join(GENERATORS)}")
    for package in ("scipy", _NEEDS.get(name, "scipy")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the generator {name} needs {package}: pip install 'p4r-qdrant[candidates]'"
            )


def generator_named(name: str) -> Generator:
    """The module of one of `MODELS`; raises as `check_generator` does."""
    check_generator(name)
    return cast("Generator", importlib.import_module(f"indexer.evaluation.generators.{name}"))


def matrix(training: Interactions, decay: float = 1.0) -> csr_matrix:
    """Interactions as a sparse matrix, (n_users, n_items) float32.

    A user's newest interaction counts 1, each older one `decay` times the next (Eq. 7).
    """
    from scipy.sparse import csr_matrix

    weights = (decay**training.age_of).astype(np.float32)
    shape = (len(training.users), len(training.items))
    return csr_matrix((weights, (training.user_of, training.item_of)), shape=shape)


def item_scores(
    training: Interactions, weights: Floats | csr_matrix, settings: Mapping[str, Any]
) -> Iterator[Fitted]:
    """Scores of an item-to-item model for each decay of the users' histories: X_u B.

    weights: B, (n_items, n_items), dense or sparse.
    """
    for decay in DECAYS:
        yield Fitted({**settings, "decay": decay}, _products(matrix(training, decay), weights))


def _products(histories: csr_matrix, weights: Floats | csr_matrix) -> Scores:
    from scipy.sparse import issparse

    def scores(users: Indexes) -> Floats:
        found = histories[users] @ weights
        return np.asarray(found.toarray() if issparse(found) else found)

    return scores


def factor_scores(user_factors: Floats, item_factors: Floats) -> Scores:
    """Scores as inner products of (n_users, dim) and (n_items, dim)."""

    def scores(users: Indexes) -> Floats:
        return user_factors[users] @ item_factors.T

    return scores
