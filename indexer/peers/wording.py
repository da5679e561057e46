"""How users and candidates are described in the prompts of peers."""

from __future__ import annotations

import re
from collections import Counter

from indexer.peers.options import PeerOptions
from indexer.peers.protocol import PeerCandidate, PeerQuery
from indexer.reasoning.sanitizing import cleaned_once
from p4r_qdrant.records import Interaction

CHARACTERS_A_WORD = 6
"""Where a text has no spaces, so many characters count as a word."""
NO_TEXT = "(nothing is known of it)"
_TITLE_WORDS = 12
_WORD = re.compile(r"\S+\s*")


class Wording:
    """Renders the texts of one query; what is removed or cut is counted in `notes`."""

    def __init__(self, options: PeerOptions, notes: Counter[str]) -> None:
        self._options = options
        self._notes = notes

    def candidate(self, one: PeerCandidate) -> str:
        """Title and text of a candidate, on one line."""
        text = self._line(one.title, one.text, words=self._options.words)
        if not text:
            self._notes["candidates without a text, in all prompts"] += 1
        return text or NO_TEXT

    def label(self, one: PeerCandidate | Interaction) -> str:
        """The title, else the begin of what is known; "" if nothing is."""
        text = one.text if isinstance(one, PeerCandidate) else one.summary
        return self.line(one.title, _TITLE_WORDS) or self.line(text, _TITLE_WORDS)

    def history(self, query: PeerQuery) -> list[str]:
        """What the user chose before, newest first, with ratings; interactions without text too."""
        shown = self._shown(query)
        return [self.interaction(one) or NO_TEXT for one in shown]

    def interaction(self, one: Interaction) -> str:
        """One interaction: title, summary and what the user said, on one line."""
        said = [f"{slot.replace('_', ' ')}: {text}" for slot, text in one.aspects.items() if text]
        line = self._line(one.title, one.summary, *said, words=self._options.history_words)
        if line and one.rating is not None:
            line += f" (rated {one.rating:g})"
        return line

    def liked(self, query: PeerQuery) -> tuple[list[str], list[str]]:
        """(liked, disliked): the labels of the newest interactions, oldest first (TALLRec).

        An interaction without a rating is taken for a like.
        """
        likes: list[str] = []
        dislikes: list[str] = []
        for one in reversed(self._shown(query)):
            bad = one.rating is not None and one.rating <= self._options.disliked
            if label := self.label(one):
                (dislikes if bad else likes).append(label)
        return likes, dislikes

    def _shown(self, query: PeerQuery) -> tuple[Interaction, ...]:
        if not query.history:
            self._notes["users without a history"] = 1
        return query.history[: self._options.history]

    def _line(self, *texts: str, words: int) -> str:
        """Each text is cleaned by itself: joined, they can read as an order to a model."""
        lines = (self.line(text) for text in texts)
        return self._cut(". ".join(line.rstrip(".") for line in lines if line), words)

    def line(self, text: str, words: int | None = None) -> str:
        """An outside text on one line, without what addresses a model, of at most `words` words."""
        kept = cleaned_once(text)
        self._notes["sentences that address a model, left out"] += kept.removed
        line = " ".join(kept.text.split())
        return line if words is None else self._cut(line, words)

    def _cut(self, text: str, words: int) -> str:
        kept = "".join(_WORD.findall(text)[:words])
        if len(kept) > 2 * CHARACTERS_A_WORD * words:  # a script without spaces
            kept = kept[: CHARACTERS_A_WORD * words]
        if len(kept) < len(text):
            self._notes["texts cut"] += 1
        return kept.strip()


def numbered(lines: list[str]) -> str:
    """Lines with numbers in brackets, from 1."""
    return "\n".join(f"[{number}] {line}" for number, line in enumerate(lines, start=1))


def listed(lines: list[str], empty: str = "- nothing is known") -> str:
    """Lines with a dash each."""
    return "\n".join(f"- {line}" for line in lines) or empty
