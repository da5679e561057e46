"""InfoNCE over the personas of a batch (Eq. 9), on one process or over all of them."""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.distributed
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from p4r_qdrant.settings import TrainingSettings

NOTHING = -1
"""Fills rows of ids up to one length; no item or persona has it."""


class Batch(TypedDict):
    """n examples, over m personas and all distinct texts of both. Ids are positions in the
    catalogue.

    texts: what is encoded. user_weights (n, n_texts) float32: the decays of Eq. 7.
    persona_rows (m,) int64: where the texts of the personas are. personas, persona_items (m,)
    int64. items (n,) int64: the targets. positives (n, a), interacted (n, b) int64, filled up
    with NOTHING. weights (n,) float32. users: who they are, for an error message.
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
    """The loss of a batch whose texts have these embeddings, (n_texts, dim), normalised.

    Among several processes the negatives are the personas of all of them. The mean of what the
    processes return, which is also what DistributedDataParallel makes of their gradients, is the
    loss of the whole batch.
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

    users (n, dim), personas (m, dim): normalised. log_weights (n, m): log w, -inf for what is
    masked. positive (n, m) bool: with several, it is enough to be near any of them, as Eq. 10
    scores an item by its best persona.
    """
    logits = users @ personas.T / temperature + log_weights
    hits = logits.masked_fill(~positive, float("-inf"))
    return torch.logsumexp(logits, dim=1) - torch.logsumexp(hits, dim=1)


def is_positive(batch: Batch, personas: Tensor) -> Tensor:
    """Which of the personas (m,) explain which example, (n, m) bool; of repeated ones the first."""
    return _among(personas, batch["positives"]) & ~_repeated(personas)


def log_weights(
    batch: Batch, personas: Tensor, persona_items: Tensor, training: TrainingSettings
) -> Tensor:
    """How the personas (m,) count as negatives of each example: log w, (n, m); -inf is masked.

    Masked are false negatives: other personas of the target item, unless they have a weight,
    and personas of items that the user has interacted with.
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
    """(n, m) bool: is ids[m] in rows[n]."""
    return ((rows[:, :, None] == ids) & (ids != NOTHING)).any(dim=1)


def _repeated(ids: Tensor) -> Tensor:
    """(m,) bool: has the id come before."""
    return (ids[:, None] == ids).tril(diagonal=-1).any(dim=1)


def processes() -> int:
    """How many processes train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def everywhere(rows: Tensor, fill: float = 0.0) -> Tensor:
    """The rows of all processes, in the order of the processes, with gradients to all of them.

    A process with fewer rows than the others is filled up with `fill`.
    """
    if processes() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    most = torch.tensor(len(rows), device=rows.device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    missing = rows.new_full((int(most) - len(rows), *rows.shape[1:]), fill)
    return torch.cat(all_gather(torch.cat([rows, missing])))  # type: ignore[no-untyped-call]
