"""Orders that a local model writes, held to the form [2] > [1] > [3]: every number once.

It is greedy decoding over the tokens that the form still allows, as a grammar holds an answer. What
the form leaves no choice about is not decoded, but read together with the next choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from indexer.llm.wire import Completion
from indexer.peers.local import LocalModel, enough_memory, padded


@dataclass(frozen=True)
class _Form:
    """The tokens of an order's parts; those of number n stand at place n - 1."""

    opening: list[int]
    joint: list[int]
    numbers: list[list[int]]

    @classmethod
    def of(cls, tokenizer: Any, count: int) -> _Form:
        def tokens(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        numbers = [tokens(str(number)) for number in range(1, count + 1)]
        return cls(tokens("["), tokens("] > ["), numbers)


@dataclass
class _Row:
    """The order of one prompt so far. left: places that are not named; spelled: of a number."""

    form: _Form
    left: set[int]
    order: list[int] = field(default_factory=list)
    spelled: list[int] = field(default_factory=list)

    def _next(self) -> dict[int, int | None]:
        """The tokens that may follow; with the place whose number one of them ends, if it does."""
        found: dict[int, int | None] = {}
        at = len(self.spelled)
        for place in sorted(self.left):
            tokens = self.form.numbers[place]
            if tokens[:at] == self.spelled:
                if len(tokens) == at:
                    found.setdefault(self.form.joint[0], place)
                else:
                    found.setdefault(tokens[at], None)
        return found

    def take(self, logits: torch.Tensor) -> list[int]:
        """Choose the next token and all that follows from it; the tokens up to the next choice."""
        allowed = self._next()
        chosen = max(allowed, key=lambda token: float(logits[token]))
        written: list[int] = []
        while True:
            if (place := allowed[chosen]) is None:
                self.spelled.append(chosen)
                written.append(chosen)
            else:
                self.order.append(place)
                self.left.remove(place)
                self.spelled = []
                written += self.form.joint
                if not self.left:
                    return []
            allowed = self._next()
            if len(allowed) > 1:
                return written
            [chosen] = allowed


def written_orders(
    model: LocalModel, prompts: Sequence[Sequence[int]], count: int
) -> list[Completion]:
    """An order of the numbers from 1 to `count` for each prompt (of tokens), in one batch."""
    form = _Form.of(model.tokenizer, count)
    rows = [_Row(form, set(range(count))) for _ in prompts]
    unread = [[*prompt, *form.opening] for prompt in prompts]
    mask = torch.zeros((len(prompts), 0), dtype=torch.int64)
    device = next(model.model.parameters()).device
    cache = None
    with torch.inference_mode(), enough_memory(model.name):
        while any(unread):
            inputs = padded(unread, model.tokenizer.pad_token_id)
            mask = torch.cat([mask, inputs["attention_mask"]], dim=1)
            width = inputs["input_ids"].shape[1]
            output = model.model(
                input_ids=inputs["input_ids"].to(device),
                attention_mask=mask.to(device),
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -width:].to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            unread = [
                row.take(logits) if row.left else []
                for row, logits in zip(rows, output.logits[:, -1].float().cpu(), strict=True)
            ]
    return [_completion(row, len(prompt)) for row, prompt in zip(rows, prompts, strict=True)]


def _completion(row: _Row, asked: int) -> Completion:
    form = row.form
    wrote = sum(len(form.numbers[place]) + len(form.joint) for place in row.order)
    return Completion(
        texts=(" > ".join(f"[{place + 1}]" for place in row.order),),
        thought="",
        finish_reason="stop",
        refusal="",
        tokens=(asked, wrote),
        thought_tokens=0,
    )
