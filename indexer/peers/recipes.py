"""How each peer is tuned: what its paper says, and what may be set otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from indexer.peers.options import TunablePeer
from p4r_qdrant.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """LoRA layers and passes over the examples.

    at_once: examples of one pass; more take more memory. every_layer: all linear layers; else query
    and value alone. measure: what is measured on the dev examples, where more is better. written:
    the whole answer is learned, not one of its options.
    """

    rank: int
    alpha: int
    dropout: float
    epochs: int
    learning_rate: float
    measure: str
    at_once: int = 4
    every_layer: bool = False
    written: bool = False


RECIPES: dict[TunablePeer, Recipe] = {
    # Source: LlamaRec (arXiv 2311.02089).
    "letters": Recipe(8, 32, 0.05, 1, 1e-4, "MRR"),
    # Source: TALLRec (arXiv 2305.00447).
    "pointwise": Recipe(8, 16, 0.05, 10, 1e-4, "AUC"),
    # Source: EXP3RT (arXiv 2408.06276); alpha is ours: it scales the layers by 1.
    "rated": Recipe(
        128, 128, 0.1, 3, 2e-4, "log-likelihood of a token", 1, every_layer=True, written=True
    ),
}


@dataclass(frozen=True)
class TuningOptions:
    """How a model is tuned; None: as the peer's recipe says."""

    rank: int | None = None
    alpha: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    at_once: int | None = None
    patience: int = 3
    seed: int = 0

    def recipe(self, peer: TunablePeer) -> Recipe:
        """The recipe of a peer with these changes; alpha grows with the rank unless it is set."""
        usual = RECIPES[peer]
        rank = self.rank or usual.rank
        return replace(
            usual,
            rank=rank,
            alpha=self.alpha or usual.alpha * rank // usual.rank,
            epochs=self.epochs or usual.epochs,
            learning_rate=self.learning_rate or usual.learning_rate,
            at_once=min(self.at_once or usual.at_once, self.batch_size),
        )


def tunable(name: str) -> TunablePeer:
    """A peer that can be tuned, by its name. Raises InputError for another one."""
    for one in RECIPES:
        if one == name:
            return one
    raise InputError(f"the peer {name!r} cannot be tuned: choose of {', '.join(RECIPES)}")
