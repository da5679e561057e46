"""The log-probabilities of a few given texts at one place of an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_EDGE = re.compile(r"^\W+|\W+$")
_OPENING = re.compile(r"[\s(\[{\"'*_`]*")
"""What may stand before an option: blanks, brackets, quotation marks, marks of bold text."""


@dataclass(frozen=True, slots=True)
class Options:
    """Texts of one token each, such as letters, digits, or Yes and No.

    after: where the answer has one of them: behind the last occurrence of this text; "": at its
        first token, brackets and the like aside.
    alternatives: the most probable tokens that the endpoint is asked for.
    """

    texts: tuple[str, ...]
    after: str = ""
    alternatives: int = 20

    @property
    def identity(self) -> list[object]:
        """What makes a request with these options another one."""
        return [list(self.texts), self.after, self.alternatives]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, and the log-probabilities of the most probable tokens in its place."""

    text: str
    alternatives: Mapping[str, float]


def option_logprobs(
    tokens: Sequence[Token], options: Options, start: int = 0
) -> dict[str, float] | None:
    """The log-probability of each option that is among the alternatives; None without any.

    start: characters of a thought before the answer. Spellings of one option ("A", " A", "(A") are
    added up. Letters count only in their own case, longer options in any.
    """
    written = "".join(token.text for token in tokens)
    if options.after:
        found = written.lower().rfind(options.after.lower(), start)
        if found < 0:
            return None
        start = found + len(options.after)
    names = {_folded(text): text for text in options.texts}
    for token in _answers_from(tokens, start):
        scores: dict[str, float] = {}
        for spelling, logprob in token.alternatives.items():
            name = names.get(_folded(_EDGE.sub("", spelling)))
            if name is not None:
                scores[name] = _added(scores.get(name, -math.inf), logprob)
        return scores or None  # the first token decides, whatever the model says after it
    return None


def _answers_from(tokens: Sequence[Token], start: int) -> Iterator[Token]:
    """The tokens behind so many characters that do not only open something."""
    begin = 0
    for token in tokens:
        if not _OPENING.fullmatch(token.text[max(0, start - begin) :]):
            yield token
        begin += len(token.text)


def _folded(text: str) -> str:
    return text if len(text) == 1 else text.casefold()


def _added(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
