"""InfoNCE over the personas of a batch (Eq. 9), in one process or across several."""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.distributed
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from p4r_qdrant.settings import TrainingSettings

NOTHING = -1
"""Padding for rows of ids; no item or persona has this id."""


class Batch(TypedDict):
    """A batch of n examples and m personas. Ids are positions in the catalogue.

    texts: the distinct texts of users and personas. user_weights (n, n_texts) float32: the decay
    weights of Eq. 7. persona_rows (m,) int64: the position of each persona's text in `texts`.
    personas, persona_items (m,) int64: the ids of the personas and of their items. items (n,)
    int64: the target items. positives (n, a), interacted (n, b) int64: padded with NOTHING.
    weights (n,) float32: the weight of each example. users: the user ids, for error messages.
    """

    texts: list[str]
    user_weights: Tensor
    persona_rows: Tensor
    personas: Tensor
    persona_items: Tensor
    items: Tensor
    positives: Tensor
    interacted: Tensor
    weights: Tensor
    users: list[str]


def batch_loss(batch: Batch, embeddings: Tensor, training: TrainingSettings) -> Tensor:
    """The loss of a batch. embeddings: of its texts, (n_texts, dim), L2-normalised.

    Several processes share their personas as negatives. The mean of the returned losses is the
    loss of the whole batch; DistributedDataParallel averages the gradients in the same way.
    """
    vectors = embeddings.float()
    users = F.normalize(batch["user_weights"] @ vectors, dim=-1)
    personas = everywhere(batch["personas"], NOTHING)
    losses = info_nce(
        users,
        everywhere(vectors[batch["persona_rows"]]),
        log_weights(batch, personas, everywhere(batch["persona_items"], NOTHING), training),
        is_positive(batch, personas),
        training.temperature,
    )
    share = processes() / everywhere(batch["weights"]).sum()
    return losses @ batch["weights"] * share


def info_nce(
    users: Tensor, personas: Tensor, log_weights: Tensor, positive: Tensor, temperature: float
) -> Tensor:
    """-log( sum_p+ exp(sim/t) / sum_q w_q exp(sim/t) ) of each user (Eq. 9): (n,).

    users (n, dim), personas (m, dim): L2-normalised. log_weights (n, m): log w, -inf where a
    persona is masked. positive (n, m) bool. A user with several positives must be near any one of
    them, because Eq. 10 scores an item by its best persona.
    """
    logits = users @ personas.T / temperature + log_weights
    hits = logits.masked_fill(~positive, float("-inf"))
    return torch.logsumexp(logits, dim=1) - torch.logsumexp(hits, dim=1)


def is_positive(batch: Batch, personas: Tensor) -> Tensor:
    """(n, m) bool: whether a persona is a positive of an example; only its first occurrence."""
    return _among(personas, batch["positives"]) & ~_repeated(personas)


def log_weights(
    batch: Batch, personas: Tensor, persona_items: Tensor, training: TrainingSettings
) -> Tensor:
    """The weight of each persona as a negative of each example: log w, (n, m); -inf masks it.

    False negatives are masked: personas of items that the user has interacted with, and other
    personas of the target item unless `sibling_weight` is set.
    """
    known = (persona_items != NOTHING) & ~_repeated(personas)
    weights = known.float().expand(len(batch["items"]), -1).clone()
    if training.mask_interacted:
        weights[_among(persona_items, batch["interacted"])] = 0.0
    same_item = known & (persona_items == batch["items"][:, None])
    weights[same_item] = training.sibling_weight
    weights[is_positive(batch, personas)] = 1.0
    return weights.log()


def _among(ids: Tensor, rows: Tensor) -> Tensor:
    """(n, m) bool: whether ids[m] is in rows[n]."""
    return ((rows[:, :, None] == ids) & (ids != NOTHING)).any(dim=1)


def _repeated(ids: Tensor) -> Tensor:
    """(m,) bool: whether an earlier position has the same id."""
    return (ids[:, None] == ids).tril(diagonal=-1).any(dim=1)


def processes() -> int:
    """The number of processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def everywhere(rows: Tensor, fill: float = 0.0) -> Tensor:
    """The rows of all processes, in the order of the processes. Gradients reach every process.

    A process with fewer rows than the others is padded with `fill`.
    """
    if processes() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    most = torch.tensor(len(rows), device=rows.device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    missing = rows.new_full((int(most) - len(rows), *rows.shape[1:]), fill)
    return torch.cat(all_gather(torch.cat([rows, missing])))  # type: ignore[no-untyped-call]
