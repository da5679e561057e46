"""Candidates with letters; the log-probabilities of the letters are their scores.

Source: LlamaRec (arXiv 2311.02089). Untuned here, through an endpoint that gives the most probable
tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase

from indexer.llm import Options, Request
from indexer.peers.asking import Form
from indexer.peers.protocol import Exchange, PeerCandidate, PeerQuery, by_score
from indexer.peers.windowed import OrderedWindow, WindowedPeer
from indexer.peers.wording import Wording, listed

ANSWER_TOKENS = 8


class Letters(WindowedPeer):
    """One call for each window; a letter that is not among the alternatives has no score."""

    name = "letters"
    needs_logprobs = True

    async def order_window(
        self, query: PeerQuery, window: Sequence[PeerCandidate], exchange: Exchange
    ) -> OrderedWindow:
        """By the probability of the letters at the first word of the answer."""
        request = self.question(query, window, exchange.notes)
        answer = await exchange.ask(request, {"text": "A", "options": {}}, can_split=True)
        if answer is None:
            return OrderedWindow(window)
        letters, found = ascii_uppercase[: len(window)], answer["options"]
        scores = {
            one.item_id: math.exp(found[letter])
            for letter, one in zip(letters, window, strict=True)
            if letter in found
        }
        exchange.notes["letters without a log-probability"] += len(window) - len(scores)
        return OrderedWindow(by_score(window, scores), scores)

    def question(
        self,
        query: PeerQuery,
        window: Sequence[PeerCandidate],
        notes: Counter[str] | None = None,
    ) -> Request:
        """The request for one window; what is cut is counted in `notes`."""
        letters = ascii_uppercase[: len(window)]
        wording = Wording(self.options, Counter() if notes is None else notes)
        return self.request(
            "peer_letters",
            _material(query, window, wording),
            Form(ANSWER_TOKENS, options=Options(tuple(letters))),
            {"user_id": query.user_id},
            last=letters[-1],
        )


def _material(query: PeerQuery, window: Sequence[PeerCandidate], wording: Wording) -> str:
    """The history and the lettered candidates."""
    lines = [
        f"({letter}) {wording.candidate(one)}"
        for letter, one in zip(ascii_uppercase, window, strict=False)
    ]
    history = listed(wording.history(query))
    return f"Chosen before, newest first:\n{history}\n\nOffered:\n" + "\n".join(lines)
