"""Which words of a review support a persona: those that its texts say too, in any form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

FEWEST, MOST_AFTER = 4, 5
"""Letters that two forms of a word begin with, and letters after them in both together."""
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u0dff])*")
"""Letters and digits; the range has marks that Hebrew, Arabic and Indian words need."""


class Support:
    """The words of a persona's texts that tell it from the item's other personas.

    Two words are forms of one if they begin alike: "sailed", "sailing". A word of fewer than
    `FEWEST` letters tells nothing, nor does one that most personas of the item say.
    """

    def __init__(self, telling: Sequence[str]) -> None:
        """telling: words in lower case."""
        self._ends: dict[str, int] = {}
        for word in telling:
            for start, after in _starts(word):
                self._ends[start] = min(after, self._ends.get(start, after))

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text in pieces, and whether each supports the persona."""
        end = 0
        for found in _WORD.finditer(text):
            if self._says(found[0].casefold()):
                yield text[end : found.start()], False
                yield found[0], True
                end = found.end()
        yield text[end:], False

    def _says(self, word: str) -> bool:
        return any(
            after + self._ends.get(start, MOST_AFTER + 1) <= MOST_AFTER
            for start, after in _starts(word)
        )


def supports(personas: Sequence[Sequence[str]]) -> list[Support]:
    """The supporting words of each persona of an item. personas: the texts of each one."""
    words = [
        {word.casefold() for text in texts for word in _WORD.findall(text)} for texts in personas
    ]
    said_by = Counter(word for own in words for word in own)
    most = max(1, len(personas) / 2)
    return [Support([word for word in sorted(own) if said_by[word] <= most]) for own in words]


def _starts(word: str) -> Iterator[tuple[str, int]]:
    """The beginnings of a word that its forms may share, and how many letters follow each."""
    for after in range(min(MOST_AFTER, len(word) - FEWEST) + 1):
        yield word[: len(word) - after], after
