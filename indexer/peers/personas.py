"""Persona reranking (Eq. 10, or the hybrid of its settings) through the protocol of peers."""

from __future__ import annotations

from indexer.judging.explanation_files import explanation
from indexer.peers.protocol import Asker, Peer, PeerAnswer, PeerQuery
from p4r_qdrant.rerank.reranker import PersonaReranker


class PersonasPeer(Peer):
    """Asks no LLM: personas were written offline. It needs an index and its encoder."""

    name = "personas"

    def __init__(self, reranker: PersonaReranker) -> None:
        self._reranker = reranker

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:  # noqa: ARG002
        """Order by the best persona of each candidate; each explains its item."""
        ranking = self._reranker.rerank(
            list(query.history),
            [(one.item_id, one.score) for one in query.candidates],
            explain=len(query.candidates),
        )
        return PeerAnswer(
            tuple(one.item_id for one in ranking.items),
            {one.item_id: one.score for one in ranking.items if one.score is not None},
            {
                one.item_id: explanation(one.persona.name, one.persona.preference_rationale)
                for one in ranking.items
                if one.persona is not None
            },
        )
