"""The client that blocks until the answer is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx

from p4r_qdrant.client import calls
from p4r_qdrant.client.answers import AgainError, pause_s, read, waits
from p4r_qdrant.client.calls import Answered, Call, CandidateLike, Filter, User
from p4r_qdrant.closing import Closing
from p4r_qdrant.records import Persona
from p4r_qdrant.schemas.items import DeletedAnswer, ItemPersonasAnswer, PutItemAnswer
from p4r_qdrant.schemas.reranking import RankingAnswer, RecommendationsAnswer, RerankAnswer
from p4r_qdrant.schemas.search import SearchAnswer
from p4r_qdrant.schemas.users import AcceptedAnswer, ErasedAnswer, ExportedInteraction, UserAnswer
from p4r_qdrant.schemas.why_not import WhyNotAnswer
from p4r_qdrant.settings import RerankSettings


class Client(Closing):
    """A synchronous client. A context manager; thread-safe.

    `timeout_s` limits one attempt, `attempts` the number of attempts. All methods raise
    ServiceRefusedError and ServiceDownError.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 10.0, attempts: int = 3
    ) -> None:
        self._attempts = attempts
        self._client = httpx.Client(base_url=url, headers=calls.headers(key), timeout=timeout_s)

    def rerank(
        self,
        user: User,
        candidates: Sequence[CandidateLike],
        top: int | None = None,
        *,
        filter: Filter = None,  # noqa: A002
        explain: int = 10,
        min_score: float | None = None,
        rerank: RerankSettings | None = None,
    ) -> RankingAnswer:
        """Rerank one user's candidates. `degraded` says whether the generator's order was kept."""
        return self.rerank_many(
            [user],
            [candidates],
            top,
            filter=filter,
            explain=explain,
            min_score=min_score,
            rerank=rerank,
        ).rankings[0]

    def rerank_many(
        self,
        users: Sequence[User],
        candidates: Sequence[Sequence[CandidateLike]],
        top: int | None = None,
        *,
        filter: Filter = None,  # noqa: A002
        explain: int = 10,
        min_score: float | None = None,
        rerank: RerankSettings | None = None,
    ) -> RerankAnswer:
        """Rerank the candidates of many users in one request."""
        call = calls.rerank(
            users,
            candidates,
            rerank,
            top=top,
            filter=filter,
            explain=explain,
            min_score=min_score,
        )
        return self._send(call)

    def why_not(
        self,
        user: User,
        item_id: str,
        candidates: Sequence[CandidateLike],
        top: int = 10,
        *,
        additions: int = 0,
        rerank: RerankSettings | None = None,
    ) -> WhyNotAnswer:
        """Return why a candidate is not among the first `top`, and the change that lifts it.

        `additions`: number of known items that are tried as one more interaction.
        """
        call = calls.why_not(user, item_id, candidates, rerank, top=top, additions=additions)
        return self._send(call)

    def recommend(
        self,
        user_id: str,
        top: int = 10,
        *,
        filter: Filter = None,  # noqa: A002
        seen: bool = False,
    ) -> RecommendationsAnswer:
        """Recommend items of the whole catalogue to a known user.

        `seen`: whether items that the user has already may come again.
        """
        return self._send(calls.recommend(user_id, top, filter, seen=seen))

    def search(
        self,
        text: str,
        top: int = 10,
        *,
        filter: Filter = None,  # noqa: A002
    ) -> SearchAnswer:
        """Return the items whose personas are nearest to a person described in words."""
        return self._send(calls.search(text, top, filter))

    def interact(self, user_id: str, item_id: str, timestamp: int, **more: Any) -> AcceptedAnswer:
        """Store an interaction; `more`: rating, and title and text of a review."""
        return self._send(calls.interact(user_id, item_id, timestamp, more))

    def user(self, user_id: str) -> UserAnswer:
        """Return the interactions that make the user vector."""
        return self._send(calls.user(user_id))

    def export(self, user_id: str) -> list[ExportedInteraction]:
        """Return everything stored of a user."""
        return self._send(calls.export(user_id))

    def erase(self, user_id: str) -> ErasedAnswer:
        """Erase a user."""
        return self._send(calls.erase(user_id))

    def personas(self, item_id: str) -> ItemPersonasAnswer:
        """Return an item's personas."""
        return self._send(calls.personas(item_id))

    def put_item(
        self, item_id: str, personas: Sequence[Persona] | None = None, **more: Any
    ) -> PutItemAnswer:
        """Replace an item's personas; `more`: title, summary, fields, reviews ... (`ItemBody`)."""
        return self._send(calls.put_item(item_id, personas, more))

    def delete_item(self, item_id: str) -> DeletedAnswer:
        """Delete an item."""
        return self._send(calls.delete_item(item_id))

    def _send(self, call: Call[Answered]) -> Answered:
        left = waits(self._attempts)
        while True:
            try:
                response = self._client.request(
                    call.method, call.path, json=call.body, params=dict(call.params)
                )
                answer: Answered = read(call, response)
                return answer
            except (AgainError, httpx.TransportError) as error:
                time.sleep(pause_s(error, left, self._client.base_url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
