"""Client of the HTTP service, sync and async.

    with Client("http://localhost:8000", key=KEY) as client:
        ranking = client.rerank("maren-o", ["beans-mostly", "tin-parliament"], top=10)

A user is an id, a list of `Interaction`, a vector, or None. Answers are the models of the service's
OpenAPI document. Requests are sent again after 429, 5xx or a connection error, and not before the
time in Retry-After; every request is safe to repeat.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from p4r_qdrant.errors import InputError, MissingExtraError, P4RError
from p4r_qdrant.records import Candidate, Interaction, Persona
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.schemas.items import DeletedAnswer, ItemPersonasAnswer, PutItemAnswer
from p4r_qdrant.schemas.reranking import RankingAnswer, RecommendationsAnswer, RerankAnswer
from p4r_qdrant.schemas.users import AcceptedAnswer, ErasedAnswer, ExportedInteraction, UserAnswer
from p4r_qdrant.settings import RerankSettings

try:
    import httpx
except ModuleNotFoundError:
    raise MissingExtraError("the client needs httpx: pip install 'p4r-qdrant[client]'") from None

User = str | Sequence[Interaction] | npt.NDArray[np.floating[Any]] | Sequence[float] | None
CandidateLike = str | tuple[str, float | None] | Candidate
Answered = TypeVar("Answered")

LONGEST_WAIT_S = 30.0


class ServiceRefusedError(InputError):
    """The service refused a request; `status`, `code` and the message say why."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServiceDownError(P4RError):
    """The service could not be reached or could not answer, after all attempts."""


@dataclass(frozen=True, slots=True)
class _Call(Generic[Answered]):
    """One request, and how to read its answer."""

    method: str
    path: str
    answer: type[BaseModel]
    body: Any = field(default=None, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    lines: bool = False

    def read(self, response: httpx.Response) -> Any:
        """The answer. Raises ServiceRefusedError and _AgainError."""
        if response.status_code in (429, 500, 502, 503, 504):
            raise _AgainError(_problem(response)[1], retry_after_s(response.headers))
        if not response.is_success:
            code, sentence = _problem(response)
            raise ServiceRefusedError(sentence, response.status_code, code)
        try:
            if self.lines:
                return [self.answer.model_validate_json(line) for line in response.iter_lines()]
            return self.answer.model_validate_json(response.content)
        except ValidationError:
            raise ServiceDownError(
                f"{response.url.copy_with(path='/')} does not answer like `p4r serve`; check the "
                "URL"
            ) from None


class _AgainError(Exception):
    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _problem(response: httpx.Response) -> tuple[str, str]:
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        return "error", f"the service answered {response.status_code}"


def _waits(attempts: int) -> Iterator[float]:
    """Least seconds to wait after each attempt but the last."""
    yield from (0.2 * 2**number for number in range(attempts - 1))


# --- requests -----------------------------------------------------------------------------


def _user(user: User, candidates: Sequence[CandidateLike]) -> dict[str, Any]:
    body: dict[str, Any] = {"candidates": [_candidate(one) for one in candidates]}
    if isinstance(user, str):
        body["user_id"] = user
    elif user is not None and len(user):
        if isinstance(user[0], Interaction):
            body["history"] = [_interaction(one) for one in user]  # type: ignore[arg-type]
        else:
            body["vector"] = np.asarray(user, dtype=np.float64).tolist()
    return body


def _interaction(one: Interaction) -> dict[str, Any]:
    return {
        "item_id": one.item_id,
        "timestamp": one.timestamp,
        "summary": one.summary,
        "title": one.title,
        "aspects": dict(one.aspects),
    }


def _candidate(candidate: CandidateLike) -> Any:
    if isinstance(candidate, str):
        return candidate
    if isinstance(candidate, Candidate):
        return candidate.model_dump()
    item_id, score = candidate
    return {"item_id": item_id, "score": score}


def _rerank(
    users: Sequence[User],
    candidates: Sequence[Sequence[CandidateLike]],
    fusion: RerankSettings | None,
    **options: Any,
) -> _Call[RerankAnswer]:
    """`options`: top, filter, explain and min_score; None leaves the service's default."""
    body: dict[str, Any] = {"users": [_user(*one) for one in zip(users, candidates, strict=True)]}
    if fusion is not None:
        body["fusion"] = {
            "method": fusion.fusion,
            "weight": fusion.weight,
            "rrf_k": fusion.rrf_k,
        }
    body |= {name: value for name, value in options.items() if value is not None}
    return _Call("POST", "/v1/rerank", RerankAnswer, body)


def _recommend(
    user_id: str,
    top: int,
    filter: Mapping[str, Any] | None,  # noqa: A002
) -> _Call[RecommendationsAnswer]:
    params = {"top": str(top)}
    if filter is not None:
        params["filter"] = json.dumps(filter)
    return _Call("GET", f"/v1/recommendations/{_id(user_id)}", RecommendationsAnswer, None, params)


def _put_item(
    item_id: str, personas: Sequence[Persona] | None, more: Mapping[str, Any]
) -> _Call[PutItemAnswer]:
    body = dict(more)
    if personas is not None:
        body["personas"] = [one.model_dump() for one in personas]
    return _Call("PUT", f"/v1/items/{_id(item_id)}", PutItemAnswer, body)


def _interact(user_id: str, item_id: str, timestamp: int, more: Any) -> _Call[AcceptedAnswer]:
    body = {"item_id": item_id, "timestamp": timestamp, **more}
    return _Call("POST", f"/v1/users/{_id(user_id)}/interactions", AcceptedAnswer, body)


def _id(value: str) -> str:
    return quote(value, safe="")


# --- clients ----------------------------------------------------------------------------------


class Client:
    """A synchronous client. A context manager; thread-safe.

    `timeout_s` limits one attempt, `attempts` the number of attempts. All methods raise
    ServiceRefusedError and ServiceDownError.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 10.0, attempts: int = 3
    ) -> None:
        self._attempts = attempts
        self._client = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout_s)

    def rerank(
        self,
        user: User,
        candidates: Sequence[CandidateLike],
        top: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
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
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: int = 10,
        min_score: float | None = None,
        rerank: RerankSettings | None = None,
    ) -> RerankAnswer:
        """Rerank the candidates of many users in one request."""
        call = _rerank(
            users,
            candidates,
            rerank,
            top=top,
            filter=filter,
            explain=explain,
            min_score=min_score,
        )
        return self._send(call)

    def recommend(
        self,
        user_id: str,
        top: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> RecommendationsAnswer:
        """Recommend items of the whole catalogue to a known user."""
        return self._send(_recommend(user_id, top, filter))

    def interact(self, user_id: str, item_id: str, timestamp: int, **more: Any) -> AcceptedAnswer:
        """Store an interaction; `more`: rating, and title and text of a review."""
        return self._send(_interact(user_id, item_id, timestamp, more))

    def user(self, user_id: str) -> UserAnswer:
        """Return the interactions that make the user vector."""
        return self._send(_Call("GET", f"/v1/users/{_id(user_id)}", UserAnswer))

    def export(self, user_id: str) -> list[ExportedInteraction]:
        """Return everything stored of a user."""
        path = f"/v1/users/{_id(user_id)}/export"
        call: _Call[list[ExportedInteraction]] = _Call("GET", path, ExportedInteraction, lines=True)
        return self._send(call)

    def erase(self, user_id: str) -> ErasedAnswer:
        """Erase a user."""
        return self._send(_Call("DELETE", f"/v1/users/{_id(user_id)}", ErasedAnswer))

    def personas(self, item_id: str) -> ItemPersonasAnswer:
        """Return an item's personas."""
        return self._send(_Call("GET", f"/v1/items/{_id(item_id)}/personas", ItemPersonasAnswer))

    def put_item(
        self, item_id: str, personas: Sequence[Persona] | None = None, **more: Any
    ) -> PutItemAnswer:
        """Replace an item's personas; `more`: title, summary, fields, reviews ... (`ItemBody`)."""
        return self._send(_put_item(item_id, personas, more))

    def delete_item(self, item_id: str) -> DeletedAnswer:
        """Delete an item."""
        return self._send(_Call("DELETE", f"/v1/items/{_id(item_id)}", DeletedAnswer))

    def _send(self, call: _Call[Answered]) -> Answered:
        waits = _waits(self._attempts)
        while True:
            try:
                response = self._client.request(
                    call.method, call.path, json=call.body, params=dict(call.params)
                )
                answer: Answered = call.read(response)
                return answer
            except (_AgainError, httpx.TransportError) as error:
                time.sleep(_pause(error, waits, self._client.base_url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A client for asyncio, with the methods of `Client`."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 10.0, attempts: int = 3
    ) -> None:
        self._attempts = attempts
        self._client = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout_s)

    async def rerank(
        self,
        user: User,
        candidates: Sequence[CandidateLike],
        top: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
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
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: int = 10,
        min_score: float | None = None,
        rerank: RerankSettings | None = None,
    ) -> RerankAnswer:
        """See `Client`."""
        call = _rerank(
            users,
            candidates,
            rerank,
            top=top,
            filter=filter,
            explain=explain,
            min_score=min_score,
        )
        return await self._send(call)

    async def recommend(
        self,
        user_id: str,
        top: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> RecommendationsAnswer:
        """See `Client`."""
        return await self._send(_recommend(user_id, top, filter))

    async def interact(
        self, user_id: str, item_id: str, timestamp: int, **more: Any
    ) -> AcceptedAnswer:
        """See `Client`."""
        return await self._send(_interact(user_id, item_id, timestamp, more))

    async def user(self, user_id: str) -> UserAnswer:
        """See `Client`."""
        return await self._send(_Call("GET", f"/v1/users/{_id(user_id)}", UserAnswer))

    async def export(self, user_id: str) -> list[ExportedInteraction]:
        """See `Client`."""
        path = f"/v1/users/{_id(user_id)}/export"
        call: _Call[list[ExportedInteraction]] = _Call("GET", path, ExportedInteraction, lines=True)
        return await self._send(call)

    async def erase(self, user_id: str) -> ErasedAnswer:
        """See `Client`."""
        return await self._send(_Call("DELETE", f"/v1/users/{_id(user_id)}", ErasedAnswer))

    async def personas(self, item_id: str) -> ItemPersonasAnswer:
        """See `Client`."""
        path = f"/v1/items/{_id(item_id)}/personas"
        return await self._send(_Call("GET", path, ItemPersonasAnswer))

    async def put_item(
        self, item_id: str, personas: Sequence[Persona] | None = None, **more: Any
    ) -> PutItemAnswer:
        """See `Client`."""
        return await self._send(_put_item(item_id, personas, more))

    async def delete_item(self, item_id: str) -> DeletedAnswer:
        """See `Client`."""
        return await self._send(_Call("DELETE", f"/v1/items/{_id(item_id)}", DeletedAnswer))

    async def _send(self, call: _Call[Answered]) -> Answered:
        waits = _waits(self._attempts)
        while True:
            try:
                response = await self._client.request(
                    call.method, call.path, json=call.body, params=dict(call.params)
                )
                answer: Answered = call.read(response)
                return answer
            except (_AgainError, httpx.TransportError) as error:
                await asyncio.sleep(_pause(error, waits, self._client.base_url))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _pause(error: Exception, waits: Iterator[float], url: httpx.URL) -> float:
    """Seconds until the next attempt. Raises ServiceDownError after the last one."""
    least = next(waits, None)
    if least is None:
        why = str(error) if isinstance(error, _AgainError) else type(error).__name__
        raise ServiceDownError(f"the service at {url} failed: {why}") from None
    asked = error.wait_s if isinstance(error, _AgainError) else 0.0
    return min(LONGEST_WAIT_S, max(least, asked))
