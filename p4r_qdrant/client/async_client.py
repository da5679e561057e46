"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import httpx

from p4r_qdrant.client import calls
from p4r_qdrant.client.answers import AgainError, pause_s, read, waits
from p4r_qdrant.client.calls import Answered, Call, CandidateLike, Filter, User
from p4r_qdrant.records import Persona
from p4r_qdrant.schemas.items import DeletedAnswer, ItemPersonasAnswer, PutItemAnswer
from p4r_qdrant.schemas.reranking import RankingAnswer, RecommendationsAnswer, RerankAnswer
from p4r_qdrant.schemas.search import SearchAnswer
from p4r_qdrant.schemas.users import AcceptedAnswer, ErasedAnswer, ExportedInteraction, UserAnswer
from p4r_qdrant.schemas.why_not import WhyNotAnswer
from p4r_qdrant.settings import RerankSettings


class AsyncClient:
    """A client for asyncio, with the methods of `Client`."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 10.0, attempts: int = 3
    ) -> None:
        self._attempts = attempts
        self._client = httpx.AsyncClient(
            base_url=url, headers=calls.headers(key), timeout=timeout_s
        )

    async def rerank(
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
        """See `Client`."""
        answer = await self.rerank_many(
            [user],
            [candidates],
            top,
            filter=filter,
            explain=explain,
            min_score=min_score,
            rerank=rerank,
        )
        return answer.rankings[0]

    async def rerank_many(
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
        """See `Client`."""
        call = calls.rerank(
            users,
            candidates,
            rerank,
            top=top,
            filter=filter,
            explain=explain,
            min_score=min_score,
        )
        return await self._send(call)

    async def why_not(
        self,
        user: User,
        item_id: str,
        candidates: Sequence[CandidateLike],
        top: int = 10,
        *,
        additions: int = 0,
        rerank: RerankSettings | None = None,
    ) -> WhyNotAnswer:
        """See `Client`."""
        call = calls.why_not(user, item_id, candidates, rerank, top=top, additions=additions)
        return await self._send(call)

    async def recommend(
        self,
        user_id: str,
        top: int = 10,
        *,
        filter: Filter = None,  # noqa: A002
        seen: bool = False,
    ) -> RecommendationsAnswer:
        """See `Client`."""
        return await self._send(calls.recommend(user_id, top, filter, seen=seen))

    async def search(
        self,
        text: str,
        top: int = 10,
        *,
        filter: Filter = None,  # noqa: A002
    ) -> SearchAnswer:
        """See `Client`."""
        return await self._send(calls.search(text, top, filter))

    async def interact(
        self, user_id: str, item_id: str, timestamp: int, **more: Any
    ) -> AcceptedAnswer:
        """See `Client`."""
        return await self._send(calls.interact(user_id, item_id, timestamp, more))

    async def user(self, user_id: str) -> UserAnswer:
        """See `Client`."""
        return await self._send(calls.user(user_id))

    async def export(self, user_id: str) -> list[ExportedInteraction]:
        """See `Client`."""
        return await self._send(calls.export(user_id))

    async def erase(self, user_id: str) -> ErasedAnswer:
        """See `Client`."""
        return await self._send(calls.erase(user_id))

    async def personas(self, item_id: str) -> ItemPersonasAnswer:
        """See `Client`."""
        return await self._send(calls.personas(item_id))

    async def put_item(
        self, item_id: str, personas: Sequence[Persona] | None = None, **more: Any
    ) -> PutItemAnswer:
        """See `Client`."""
        return await self._send(calls.put_item(item_id, personas, more))

    async def delete_item(self, item_id: str) -> DeletedAnswer:
        """See `Client`."""
        return await self._send(calls.delete_item(item_id))

    async def _send(self, call: Call[Answered]) -> Answered:
        left = waits(self._attempts)
        while True:
            try:
                response = await self._client.request(
                    call.method, call.path, json=call.body, params=dict(call.params)
                )
                answer: Answered = read(call, response)
                return answer
            except (AgainError, httpx.TransportError) as error:
                await asyncio.sleep(pause_s(error, left, self._client.base_url))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
