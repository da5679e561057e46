"""The lines that a ranking by a peer is written as, and the sums over users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from indexer.llm import Usage
from indexer.peers.protocol import PeerAnswer, PeerQuery
from indexer.peers.running import total


def line(query: PeerQuery, answer: PeerAnswer) -> dict[str, Any]:
    """A ranking in the form of a candidates file, with the explanations where there are any."""
    return {
        "user_id": query.user_id,
        "repaired": answer.repaired,
        "failed": answer.failed,
        "results": [
            {"item_id": item_id, "score": answer.scores.get(item_id)}
            | ({"explanation": text} if (text := answer.explanations.get(item_id)) else {})
            for item_id in answer.order
        ],
    }


@dataclass(frozen=True)
class Totals:
    """Sums over the queries of one peer.

    usage: what each query needs by itself; answers that several queries share count for each.
    """

    peer: str
    queries: int
    usage: Usage
    requests: int
    repaired: int
    failed: int
    notes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, peer: str, answers: Sequence[PeerAnswer]) -> Totals:
        """The sums of these answers."""
        notes: Counter[str] = Counter()
        for one in answers:
            notes.update(one.notes)
        return cls(
            peer,
            len(answers),
            total(answers),
            sum(one.requests for one in answers),
            sum(one.repaired for one in answers),
            sum(one.failed for one in answers),
            notes,
        )

    @property
    def failed_share(self) -> float:
        """Failed requests as a share of all requests that were made."""
        return self.failed / max(1, self.requests)
