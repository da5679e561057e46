"""Examples as tokens, their loss, and how well a model answers those that choose the best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from indexer.llm import Options
from indexer.metrics import Floats
from indexer.peers.local import (
    BATCH_TOKENS,
    LocalModel,
    Messages,
    by_length,
    enough_memory,
    last_logits,
    padded,
)
from indexer.peers.options import TunablePeer
from indexer.peers.recipes import RECIPES
from indexer.peers.tuning_data import Example
from p4r_qdrant.errors import InputError

_NO_LOSS = -100


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of a question, and those of its answer."""

    question: list[int]
    answer: list[int]

    @property
    def tokens(self) -> list[int]:
        """What the model reads: all but the last token of the answer."""
        return [*self.question, *self.answer[:-1]]


def readable(model: LocalModel, peer: TunablePeer, examples: Sequence[Example]) -> list[Example]:
    """The examples that are not too long for the model. Raises InputError if none is left."""
    if not examples:
        raise InputError("there is no example to learn from, or none to choose the epoch by")
    lengths = [len(row(model, peer, one).tokens) for one in examples]
    found = [one for one, n in zip(examples, lengths, strict=True) if n <= model.longest]
    if not found:
        raise InputError(
            f"the shortest example has {min(lengths)} tokens, and {model.name} reads "
            f"{model.longest}: lower the options words, history_words and reviews"
        )
    return found


def row(model: LocalModel, peer: TunablePeer, one: Example) -> Row:
    """The tokens of an example."""
    question = model.tokens(Messages(one.request.system, one.request.user))
    return Row(question, _answer(model, peer, one))


def _answer(model: LocalModel, peer: TunablePeer, one: Example) -> list[int]:
    ids = list(model.tokenizer.encode(one.answer, add_special_tokens=False))
    if RECIPES[peer].written:
        return [*ids, model.tokenizer.eos_token_id]
    return ids if len(ids) == 1 else [model.option_tokens(options_of(one))[0][0]]


def collated(rows: Sequence[Row], padding: int) -> dict[str, torch.Tensor]:
    """The inputs of a model, and `labels`: (n, longest answer) int64, aligned to the right."""
    labels = torch.full((len(rows), max(len(one.answer) for one in rows)), _NO_LOSS)
    for place, one in enumerate(rows):
        labels[place, labels.shape[1] - len(one.answer) :] = torch.tensor(one.answer)
    return padded([one.tokens for one in rows], padding) | {"labels": labels}


def loss_of(model: Any, inputs: Mapping[str, torch.Tensor], reduction: str = "mean") -> Any:
    """The cross-entropy of the answers' tokens."""
    given = dict(inputs)
    labels = given.pop("labels")
    logits = last_logits(model, given, labels.shape[1]).float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels.to(logits.device).flatten(),
        ignore_index=_NO_LOSS,
        reduction=reduction,
    )


def dev_value(model: LocalModel, peer: TunablePeer, examples: Sequence[Example]) -> float:
    """The measure of the peer's recipe; more is better.

    letters: mean reciprocal rank of the right letter. pointwise: AUC, or accuracy if all dev
    answers are the same. rated: the mean log-probability of a token of the right answers.
    """
    if RECIPES[peer].written:
        return _log_likelihood(model, [row(model, peer, one) for one in examples])
    scores: list[dict[str, float]] = [{} for _ in examples]
    for options in {options_of(one): None for one in examples}:
        places = [at for at, one in enumerate(examples) if options_of(one) == options]
        asked = [row(model, peer, examples[at]).question for at in places]
        for at, own in zip(places, model.option_logprobs(asked, options), strict=True):
            scores[at] = own
    if peer == "letters":
        ranks = [
            1 + sum(value > own[one.answer] for value in own.values())
            for one, own in zip(examples, scores, strict=True)
        ]
        return float(np.mean(1 / np.array(ranks)))
    liked = np.array([one.answer == "Yes" for one in examples])
    margins = np.array([own["Yes"] - own["No"] for own in scores])
    if liked.all() or not liked.any():
        return float(np.mean((margins > 0) == liked))
    return auc(margins, liked)


def _log_likelihood(model: LocalModel, found: Sequence[Row]) -> float:
    total = 0.0
    for batch in by_length([len(one.tokens) for one in found], BATCH_TOKENS):
        inputs = collated([found[at] for at in batch], model.tokenizer.pad_token_id)
        with torch.inference_mode(), enough_memory(model.name):
            total -= float(loss_of(model.model, inputs, reduction="sum"))
    return total / sum(len(one.answer) for one in found)


def auc(scores: Floats, positive: Any) -> float:
    """The share of (positive, negative) pairs in the right order."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def options_of(one: Example) -> Options:
    """The options of a question that has some."""
    assert one.request.options is not None  # noqa: S101 - letters and pointwise have options
    return one.request.options
