"""Examples to batches: each distinct text once, ids as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from indexer.training.loss import NOTHING, Batch
from indexer.training.pairs import Catalogue, Example
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import decay_weights


class Collator:
    """Makes batches of examples.

    The personas of a batch are the positives and hard negatives of all its examples. With
    `siblings`, they also include all personas of the target items.

    encoder: adds prompts to the texts and cuts them to what the model reads. None leaves the texts
    unchanged.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        decay: float,
        *,
        siblings: bool,
        encoder: Encoder | None = None,
    ) -> None:
        self._encoder = encoder
        self._catalogue = catalogue
        self._decay = decay
        self._siblings = siblings

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Make one batch, on the CPU."""
        catalogue = self._catalogue
        personas = list(dict.fromkeys(one for example in examples for one in self._of(example)))
        said = [one for example in examples for one in example.texts]
        described = [catalogue.texts[persona] for persona in personas]
        if self._encoder is not None:
            said = self._encoder.query_inputs(said)
            described = self._encoder.document_inputs(described)
        texts: dict[str, int] = {}
        for text in (*said, *described):
            texts.setdefault(text, len(texts))
        columns_of = iter(said)
        user_weights = torch.zeros(len(examples), len(texts))
        for row, example in enumerate(examples):
            columns = torch.tensor([texts[next(columns_of)] for _ in example.texts])
            weights = torch.from_numpy(decay_weights(len(columns), self._decay)).float()
            user_weights[row].index_add_(0, columns, weights)  # a history can repeat a text
        return Batch(
            texts=list(texts),
            user_weights=user_weights,
            persona_rows=torch.tensor([texts[one] for one in described]),
            personas=torch.tensor(personas),
            persona_items=torch.tensor([catalogue.item_of[one] for one in personas]),
            items=torch.tensor([example.item for example in examples]),
            positives=_filled([example.positives for example in examples]),
            interacted=_filled([example.interacted for example in examples]),
            weights=torch.tensor([example.weight for example in examples]),
            users=[example.user_id for example in examples],
        )

    def _of(self, example: Example) -> Sequence[int]:
        siblings = self._catalogue.personas_of(example.item) if self._siblings else ()
        return (*example.positives, *example.negatives, *siblings)


def _filled(rows: Sequence[Sequence[int]]) -> Tensor:
    """Pad rows of different lengths with NOTHING and return one tensor."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[NOTHING] * (width - len(row))] for row in rows])
