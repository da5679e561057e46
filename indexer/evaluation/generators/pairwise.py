"""Embeddings of users and items trained by the BPR loss, with torch-geometric on the CPU.

Scores are inner products of embeddings after the layers of LightGCN; without a layer the model is
BPR-MF. Negative items are sampled uniformly, as in both papers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.evaluation.generators.base import Fitted, factor_scores, matrix
from indexer.evaluation.interactions import Indexes, Interactions

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

EPOCHS = (50, 100, 200, 400)
RATE = 0.005
BATCH = 2048
MOST_STEPS = 10
"""Most steps of an epoch. Each step passes the whole graph, so large data get larger batches."""


def fitted(
    interactions: Interactions,
    seed: int,
    *,
    layers: Sequence[int],
    dimensions: Sequence[int],
    regularization: Sequence[float],
) -> Iterator[Fitted]:
    """One model for each setting and number of epochs; training continues between the numbers."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its other models use deprecated parts of torch
        from torch_geometric.nn.models import LightGCN
    training = matrix(interactions)
    n_users, n_items = training.shape
    graph = _graph(training)
    for depth, dimension, strength in product(layers, dimensions, regularization):
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LightGCN(n_users + n_items, dimension, depth, normalize=False)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        done = 0
        for epochs in EPOCHS:
            with _repeatable():
                for _ in range(epochs - done):
                    _epoch(model, optimizer, graph, training, strength, rng)
                with torch.no_grad():
                    nodes = model.get_embedding(graph).numpy()
            done = epochs
            yield Fitted(
                {
                    "layers": depth,
                    "dimension": dimension,
                    "regularization": strength,
                    "epochs": epochs,
                },
                factor_scores(nodes[:n_users], nodes[n_users:]),
            )


def with_settings(interactions: Interactions, seed: int, settings: Mapping[str, Any]) -> Fitted:
    """The model of one setting of the grid; `settings` are those of a `Fitted`."""
    models = fitted(
        interactions,
        seed,
        layers=[settings["layers"]],
        dimensions=[settings["dimension"]],
        regularization=[settings["regularization"]],
    )
    return next(one for one in models if one.settings == settings)


def _graph(training: csr_matrix) -> torch.Tensor:
    """The normalised adjacency D^-1/2 A D^-1/2 of users and items, sparse."""
    import torch
    from scipy.sparse import bmat, diags

    adjacency = bmat([[None, training], [training.T, None]], format="csr", dtype=np.float32)
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    scale = diags(1 / np.sqrt(np.maximum(degree, 1)))
    normal = (scale @ adjacency @ scale).tocsr().astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR support a beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(normal.indptr.astype(np.int64)),
            torch.from_numpy(normal.indices.astype(np.int64)),
            torch.from_numpy(normal.data),
            size=normal.shape,
        )


def _epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    graph: torch.Tensor,
    training: csr_matrix,
    regularization: float,
    rng: np.random.Generator,
) -> None:
    """Train on every interaction once, each with an item that the user does not have."""
    import torch

    n_users, n_items = training.shape
    user_of, item_of = training.nonzero()
    order = rng.permutation(len(user_of))
    size = max(BATCH, -(-len(order) // MOST_STEPS))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        users, items = user_of[batch].astype(np.int64), item_of[batch].astype(np.int64)
        others = _not_theirs(users, user_of * n_items + item_of, n_items, rng)
        edges = np.stack([np.tile(users, 2), n_users + np.concatenate([items, others])])
        nodes = torch.from_numpy(np.unique(edges))
        liked, other = model(graph, torch.from_numpy(edges)).chunk(2)
        loss = model.recommendation_loss(liked, other, node_id=nodes, lambda_reg=regularization)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _not_theirs(users: Indexes, known: Indexes, n_items: int, rng: np.random.Generator) -> Indexes:
    """A random item for each user that is not among the `known` pairs (user * n_items + item).

    After 20 draws a wrong item remains: a user can have all items.
    """
    drawn = rng.integers(0, n_items, len(users))
    for _ in range(20):
        wrong = np.isin(users * n_items + drawn, known)
        if not wrong.any():
            break
        drawn[wrong] = rng.integers(0, n_items, int(wrong.sum()))
    return drawn


@contextmanager
def _repeatable() -> Iterator[None]:
    """Context manager: the same seed gives the same result. Restores the settings of torch."""
    import torch

    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
