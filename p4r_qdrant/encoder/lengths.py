"""Texts that are longer than a model reads: what is kept of them, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p4r_qdrant import texts

TokensOf = Callable[[Sequence[str]], Sequence[int]]
"""The number of tokens of each text, those that the model adds included."""

BYTES_A_TOKEN = 3
"""A cautious guess where there is no tokenizer: English has some 4.4, Chinese some 3.5."""


@dataclass
class Counted:
    """texts: how many were encoded. long: how many of them were longer than the model reads."""

    texts: int = 0
    long: int = 0


@dataclass
class Lengths:
    """The tokens that a model reads of a text, and how many texts were longer.

    Of a text of a history, the item's summary is shortened until the user's own words fit. Of a
    persona, the model reads the beginning: name, description, rationale, and then the summary.
    """

    limit: int
    tokens_of: TokensOf
    personas: Counted = field(default_factory=Counted)
    histories: Counted = field(default_factory=Counted)

    def fresh(self) -> Lengths:
        """The same limit, with nothing counted."""
        return Lengths(self.limit, self.tokens_of)

    def of_personas(self, inputs: list[str]) -> list[str]:
        """The inputs as they are; those that are too long are counted."""
        self.personas.texts += len(inputs)
        self.personas.long += len(self._too_long(inputs))
        return inputs

    def of_histories(self, prompt: str, batch: Sequence[str]) -> list[str]:
        """The inputs of texts of histories; of those that are too long, with shorter summaries."""
        inputs = [prompt + text for text in batch]
        long = self._too_long(inputs)
        self.histories.texts += len(inputs)
        self.histories.long += len(long)
        cut = list(batch)
        while long := {row: long[row] for row in long if texts.has_summary(cut[row])}:
            for row, tokens in long.items():
                excess = len(cut[row]) * (tokens - self.limit) / tokens
                cut[row] = texts.with_shorter_summary(cut[row], by=int(1.1 * excess) + 1)
                inputs[row] = prompt + cut[row]
            rows = list(long)
            still = self._too_long([inputs[row] for row in rows])
            long = {rows[place]: tokens for place, tokens in still.items()}
        return inputs

    def said(self) -> list[str]:
        """Sentences on the texts that were too long, for people; none if there were none."""
        found = []
        if self.personas.long:
            found.append(
                f"{self.personas.long:,} of {self.personas.texts:,} texts of personas are longer "
                f"than the {self.limit:,} tokens that the encoder reads: their ends (of the item's "
                "summary) do not count"
            )
        if self.histories.long:
            found.append(
                f"{self.histories.long:,} of {self.histories.texts:,} texts of histories are "
                f"longer than the {self.limit:,} tokens that the encoder reads: the item's summary "
                "was shortened, the user's own words were kept"
            )
        return found

    def _too_long(self, inputs: Sequence[str]) -> dict[int, int]:
        """The tokens of the inputs that are too long, by their position."""
        # No text has more tokens than bytes, but for the few that a model adds.
        rows = [row for row, text in enumerate(inputs) if len(text.encode()) > self.limit - 8]
        counts = self.tokens_of([inputs[row] for row in rows]) if rows else []
        return {row: n for row, n in zip(rows, counts, strict=True) if n > self.limit}


def guessed_tokens(batch: Sequence[str]) -> list[int]:
    """The number of tokens of each text by a cautious guess: see `BYTES_A_TOKEN`."""
    return [-(-len(text.encode()) // BYTES_A_TOKEN) for text in batch]
