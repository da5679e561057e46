"""Listwise reranking by an LLM without training: it writes an order of numbered candidates.

Source: RankGPT (arXiv 2304.09542), the ZS-LLM of the paper; recency, example and votes are those
of LLMRank (arXiv 2305.08845).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from indexer.peers.asking import Form
from indexer.peers.protocol import Exchange, PeerCandidate, PeerQuery
from indexer.peers.reading import read_order
from indexer.peers.windowed import OrderedWindow, WindowedPeer
from indexer.peers.wording import Wording, listed, numbered

TOKENS_A_PLACE = 6
TOKENS_AROUND = 40


class Listwise(WindowedPeer):
    """Asks for the order of each window."""

    name = "listwise"

    async def order_window(
        self, query: PeerQuery, window: Sequence[PeerCandidate], exchange: Exchange
    ) -> OrderedWindow:
        """By one answer, or by the sum of several answers to shuffled windows."""
        points: Counter[str] = Counter()
        for vote in range(self.options.votes):
            given = list(window) if vote == 0 else shuffled(window, f"{query.user_id} {vote}")
            for place, one in enumerate(await self._voted(query, given, exchange)):
                points[one.item_id] -= place
        return OrderedWindow(sorted(window, key=lambda one: -points[one.item_id]))

    async def _voted(
        self, query: PeerQuery, window: Sequence[PeerCandidate], exchange: Exchange
    ) -> list[PeerCandidate]:
        count = len(window)
        wording = Wording(self.options, exchange.notes)
        parts = [
            f"Chosen before, newest first:\n{listed(wording.history(query))}",
            *self._variants(query, wording),
            f"To put in order:\n{numbered([wording.candidate(one) for one in window])}",
        ]

        def problem(answer: str) -> str | None:
            return None if read_order(answer, count) else "it names no candidate in brackets"

        request = self.request(
            "peer_listwise",
            "\n\n".join(parts),
            Form(TOKENS_A_PLACE * count + TOKENS_AROUND, check=problem, numbers=count),
            {"user_id": query.user_id},
            count=count,
        )
        assumed = " > ".join(f"[{number}]" for number in range(1, count + 1))
        answer = await exchange.ask(request, assumed, can_split=True)
        found = None if answer is None else read_order(answer, count)
        if found is None:
            return list(window)
        exchange.repaired += found.repairs
        return [window[place] for place in found.places]

    def _variants(self, query: PeerQuery, wording: Wording) -> list[str]:
        """LLMRank's sentences about the newest interaction."""
        newest = wording.label(query.history[0]) if query.history else ""
        if not newest:
            return []
        found = []
        if self.options.recency:
            found.append(f"The most recent choice was: {newest}.")
        if self.options.example and len(query.history) > 1:
            found.append(
                f"An example: after everything before it, the right first place was {newest}."
            )
        return found


def shuffled(window: Sequence[PeerCandidate], seed: str) -> list[PeerCandidate]:
    """The candidates in a pseudorandom order that depends on the seed and their ids alone."""

    def place(one: PeerCandidate) -> bytes:
        return hashlib.sha256(f"{seed}\x00{one.item_id}".encode()).digest()

    return sorted(window, key=place)
