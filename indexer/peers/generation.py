"""Answers that a local model writes: the most probable token at each place, many prompts at once.

They have the form of an endpoint's answers, so that they are read in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from indexer.llm.options import Token
from indexer.llm.wire import Completion
from indexer.peers.local import LocalModel, enough_memory, padded


class _Watch:
    """Keeps the most probable tokens of every step: (n, most) ids and log-probabilities."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Note the scores; they stay as they are."""
        top = scores.float().log_softmax(-1).topk(min(self._most, scores.shape[-1]))
        self.steps.append((top.indices.cpu(), top.values.cpu()))
        return scores


def written(
    model: LocalModel, prompts: Sequence[Sequence[int]], most_tokens: int, alternatives: int = 0
) -> list[Completion]:
    """One answer to each prompt (of tokens), in one batch; at most `most_tokens` long.

    alternatives: how many of the most probable tokens are kept for each place.
    """
    inputs = padded(prompts, model.tokenizer.pad_token_id)
    device = next(model.model.parameters()).device
    watch = _Watch(alternatives)
    how = GenerationConfig(
        max_new_tokens=most_tokens,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=_ends(model),
    )
    with torch.inference_mode(), enough_memory(model.name):
        output = model.model.generate(
            input_ids=inputs["input_ids"].to(device),
            attention_mask=inputs["attention_mask"].to(device),
            generation_config=how,
            logits_processor=LogitsProcessorList([watch] if alternatives else []),
        )
    begin = inputs["input_ids"].shape[1]
    return [
        _completion(model, len(prompt), output[row, begin:].tolist(), watch, row)
        for row, prompt in enumerate(prompts)
    ]


def _completion(
    model: LocalModel, asked: int, ids: list[int], watch: _Watch, row: int
) -> Completion:
    ends = _ends(model)
    end = next((at for at, one in enumerate(ids) if one in ends), None)
    own = ids if end is None else ids[:end]
    texts = [model.tokenizer.decode(own[:count]) for count in range(len(own) + 1)]
    return Completion(
        texts=(texts[-1],),
        thought="",
        finish_reason="length" if end is None else "stop",
        refusal="",
        tokens=(asked, len(own)),
        thought_tokens=0,
        logprobs=tuple(
            Token(texts[at + 1][len(texts[at]) :], _alternatives(model.tokenizer, *step, row))
            for at, step in enumerate(watch.steps[: len(own)])
        ),
    )


def _alternatives(
    tokenizer: Any, ids: torch.Tensor, values: torch.Tensor, row: int
) -> dict[str, float]:
    """The log-probabilities of the most probable tokens of one place; of equal texts, the best."""
    found: dict[str, float] = {}
    for token, value in zip(ids[row].tolist(), values[row].tolist(), strict=True):
        found.setdefault(tokenizer.decode([token]), value)
    return found


def _ends(model: LocalModel) -> list[int]:
    """The tokens that end an answer."""
    own = getattr(model.model.generation_config, "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return sorted({one for one in (*named, model.tokenizer.eos_token_id) if one is not None})
