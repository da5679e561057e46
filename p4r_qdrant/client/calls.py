"""The requests of the client: each is a `Call`, which the sync and the async client send alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from p4r_qdrant.records import Candidate, Interaction, Persona
from p4r_qdrant.schemas.items import DeletedAnswer, ItemPersonasAnswer, PutItemAnswer
from p4r_qdrant.schemas.reranking import RecommendationsAnswer, RerankAnswer
from p4r_qdrant.schemas.search import SearchAnswer
from p4r_qdrant.schemas.users import AcceptedAnswer, ErasedAnswer, ExportedInteraction, UserAnswer
from p4r_qdrant.schemas.why_not import WhyNotAnswer
from p4r_qdrant.settings import RerankSettings

User = str | Sequence[Interaction] | npt.NDArray[np.floating[Any]] | Sequence[float] | None
CandidateLike = str | tuple[str, float | None] | Candidate
Filter = Mapping[str, Any] | None
Answered = TypeVar("Answered")

FUSION = ("weight", "rrf_k")
PART_WEIGHTS = ("persona_weight", "collaborative_weight", "generator_weight")
"""Weights that are not sent if they are not set."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Answered]):
    """One request. Its answer is one `answer`, or with `lines` one in each line."""

    method: str
    path: str
    answer: type[BaseModel]
    body: Any = field(default=None, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    lines: bool = False


def rerank(
    users: Sequence[User],
    candidates: Sequence[Sequence[CandidateLike]],
    fusion: RerankSettings | None,
    **options: Any,
) -> Call[RerankAnswer]:
    """`options`: top, filter, explain and min_score; None leaves the service's default."""
    body: dict[str, Any] = {"users": [_user(*one) for one in zip(users, candidates, strict=True)]}
    if fusion is not None:
        body["fusion"] = _fusion(fusion)
    body |= {name: value for name, value in options.items() if value is not None}
    return Call("POST", "/v1/rerank", RerankAnswer, body)


def why_not(
    user: User,
    item_id: str,
    candidates: Sequence[CandidateLike],
    fusion: RerankSettings | None,
    **options: int,
) -> Call[WhyNotAnswer]:
    """`options`: top and additions."""
    body: dict[str, Any] = {"user": _user(user, candidates), "item_id": item_id, **options}
    if fusion is not None:
        body["fusion"] = _fusion(fusion)
    return Call("POST", "/v1/why-not", WhyNotAnswer, body)


def recommend(
    user_id: str,
    top: int,
    filter: Filter,  # noqa: A002
    *,
    seen: bool,
) -> Call[RecommendationsAnswer]:
    """Items of the whole catalogue for a known user."""
    params = {"top": str(top)}
    if seen:
        params["seen"] = "true"
    if filter is not None:
        params["filter"] = json.dumps(filter)
    path = f"/v1/recommendations/{_id(user_id)}"
    return Call("GET", path, RecommendationsAnswer, params=params)


def search(text: str, top: int, filter: Filter) -> Call[SearchAnswer]:  # noqa: A002
    """Items of the whole catalogue for a described person."""
    body: dict[str, Any] = {"text": text, "top": top}
    if filter is not None:
        body["filter"] = dict(filter)
    return Call("POST", "/v1/search", SearchAnswer, body)


def interact(
    user_id: str, item_id: str, timestamp: int, more: Mapping[str, Any]
) -> Call[AcceptedAnswer]:
    """An interaction to store."""
    body = {"item_id": item_id, "timestamp": timestamp, **more}
    return Call("POST", f"{_of_user(user_id)}/interactions", AcceptedAnswer, body)


def user(user_id: str) -> Call[UserAnswer]:
    """The interactions that make the user vector."""
    return Call("GET", _of_user(user_id), UserAnswer)


def export(user_id: str) -> Call[list[ExportedInteraction]]:
    """Everything stored of a user."""
    return Call("GET", f"{_of_user(user_id)}/export", ExportedInteraction, lines=True)


def erase(user_id: str) -> Call[ErasedAnswer]:
    """A user to erase."""
    return Call("DELETE", _of_user(user_id), ErasedAnswer)


def personas(item_id: str) -> Call[ItemPersonasAnswer]:
    """An item's personas."""
    return Call("GET", f"{_of_item(item_id)}/personas", ItemPersonasAnswer)


def put_item(
    item_id: str, own: Sequence[Persona] | None, more: Mapping[str, Any]
) -> Call[PutItemAnswer]:
    """An item with new personas."""
    body = dict(more)
    if own is not None:
        body["personas"] = [one.model_dump() for one in own]
    return Call("PUT", _of_item(item_id), PutItemAnswer, body)


def delete_item(item_id: str) -> Call[DeletedAnswer]:
    """An item to delete."""
    return Call("DELETE", _of_item(item_id), DeletedAnswer)


def headers(key: str | None) -> dict[str, str]:
    """The headers of every request."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


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


def _fusion(own: RerankSettings) -> dict[str, Any]:
    sent = {*FUSION, *(name for name in PART_WEIGHTS if getattr(own, name) is not None)}
    return {"method": own.fusion, **own.model_dump(include=sent)}


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


def _of_user(user_id: str) -> str:
    return f"/v1/users/{_id(user_id)}"


def _of_item(item_id: str) -> str:
    return f"/v1/items/{_id(item_id)}"


def _id(value: str) -> str:
    return quote(value, safe="")
