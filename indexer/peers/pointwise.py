"""One question for each candidate: would this user like it? Yes against No is its score.

Source: TALLRec (arXiv 2305.00447). Untuned here, through an endpoint that gives the most probable
tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from indexer.llm import Options, Request
from indexer.peers.asking import AskingPeer, Form
from indexer.peers.protocol import Asker, Exchange, PeerAnswer, PeerCandidate, PeerQuery, by_score
from indexer.peers.together import together
from indexer.peers.wording import Wording, listed

YES, NO = "Yes", "No"
ANSWER_TOKENS = 8


class Pointwise(AskingPeer):
    """Asks about every candidate, whatever `top` is."""

    name = "pointwise"
    needs_logprobs = True

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        """Order by the probability of Yes among Yes and No."""
        exchange = Exchange(ask)
        found = await together(*(self._score(query, one, exchange) for one in query.candidates))
        scores = {
            one.item_id: score
            for one, score in zip(query.candidates, found, strict=True)
            if score is not None
        }
        return exchange.answer(by_score(query.candidates, scores), scores)

    async def _score(
        self, query: PeerQuery, candidate: PeerCandidate, exchange: Exchange
    ) -> float | None:
        request = self.question(query, candidate, exchange.notes)
        answer = await exchange.ask(request, {"text": NO, "options": {}})
        return None if answer is None else share_of_yes(answer["options"])

    def question(
        self, query: PeerQuery, candidate: PeerCandidate, notes: Counter[str] | None = None
    ) -> Request:
        """The request for one candidate; what is cut is counted in `notes`."""
        wording = Wording(self.options, Counter() if notes is None else notes)
        return self.request(
            "peer_pointwise",
            _material(query, candidate, wording),
            Form(ANSWER_TOKENS, options=Options((YES, NO))),
            {"user_id": query.user_id, "item_id": candidate.item_id},
        )


def share_of_yes(logprobs: Mapping[str, float]) -> float | None:
    """p(Yes) / (p(Yes) + p(No)); None if neither is known."""
    yes, no = (math.exp(logprobs[one]) if one in logprobs else 0.0 for one in (YES, NO))
    return yes / (yes + no) if yes + no else None


def _material(query: PeerQuery, candidate: PeerCandidate, wording: Wording) -> str:
    """What the user liked and disliked, oldest first, and the candidate."""
    likes, dislikes = wording.liked(query)
    return (
        f"Liked, oldest first:\n{listed(likes)}\n\nDisliked:\n{listed(dislikes, '- nothing')}\n\n"
        f"Offered: {wording.candidate(candidate)}"
    )
