"""Persona reranking (Eq. 10, or the hybrid of its settings) through the protocol of peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from indexer.judging.explanation_files import explanation
from indexer.peers.protocol import Asker, Peer, PeerAnswer, PeerQuery
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import UserVector, history_texts, user_vector
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import HistorySettings


class PersonasPeer(Peer):
    """Asks no LLM: personas were written offline. It needs an index and its encoder."""

    name = "personas"

    def __init__(
        self, reranker: PersonaReranker, stored: Mapping[str, UserVector] | None = None
    ) -> None:
        """`stored`: the vectors of known users, whose histories are then not encoded again."""
        self._reranker = reranker
        self._stored = stored or {}

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:  # noqa: ARG002
        """Order by the best persona of each candidate; each explains its item."""
        ranking = self._reranker.rerank(
            self._stored.get(query.user_id, query.history),
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


def stored_users(
    queries: Iterable[PeerQuery], encoder: Encoder, history: HistorySettings
) -> dict[str, UserVector]:
    """The vectors of the users that have one, as a service stores them."""
    found = {}
    for query in queries:
        pairs = history_texts(query.history, history.length)
        if pairs:
            embeddings = encoder.encode_queries([text for _, text in pairs])
            vector = user_vector([one for one, _ in pairs], embeddings, history.decay)
            if vector is not None:
                found[query.user_id] = vector
    return found
