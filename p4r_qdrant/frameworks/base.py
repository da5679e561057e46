"""What the adapters share: whom a query stands for, what is asked, what is told of an item."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from p4r_qdrant.client import AsyncClient, Client
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Interaction, RankedItem
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.schemas import RankedAnswer

Reranker = PersonaReranker | Client | AsyncClient
"""In this process, or over HTTP; an AsyncClient answers the async methods only."""

Ranked = RankedItem | RankedAnswer
Told = dict[str, Any]
"""What is put into the metadata of a document: see `told_of`."""

EXPLANATION = "p4r_explanation"
ASYNC_ONLY = "an AsyncClient answers the async methods only: call those, or give a Client"


def recommend(
    reranker: Reranker, user: Any, query: str, top: int, wanted: Mapping[str, Any] | None
) -> Sequence[Ranked]:
    """The `top` items of the whole catalogue for the user a query stands for, best first.

    Without those the user has had, as far as they are known. Empty for somebody unknown (None).
    `wanted` is the filter. Raises as `user_of` and the reranker do.
    """
    if isinstance(reranker, AsyncClient):
        raise InputError(ASYNC_ONLY)
    found = user_of(reranker, user, query)
    if isinstance(reranker, PersonaReranker):
        return reranker.recommend(found, top, filter=wanted, exclude=_had(found)).items
    user_id = _user_id(found)
    return reranker.recommend(user_id, top, filter=wanted).items if user_id else ()


async def arecommend(
    reranker: Reranker, user: Any, query: str, top: int, wanted: Mapping[str, Any] | None
) -> Sequence[Ranked]:
    """`recommend`, without holding up the event loop."""
    if not isinstance(reranker, AsyncClient):
        return await asyncio.to_thread(recommend, reranker, user, query, top, wanted)
    user_id = _user_id(user_of(reranker, user, query))
    return (await reranker.recommend(user_id, top, filter=wanted)).items if user_id else ()


def rerank(
    reranker: Reranker,
    user: Any,
    query: str | None,
    candidates: Sequence[tuple[str, float | None]],
    top: int | None,
    **options: Any,
) -> list[tuple[int, Told]]:
    """The places of candidates in a list, best first, with what is told of the items there.

    Items may occur more than once: their candidates stay together, in their order. `top` counts
    candidates; `options` are those of `PersonaReranker.rerank`. Raises as `user_of` and the
    reranker do.
    """
    if isinstance(reranker, AsyncClient):
        raise InputError(ASYNC_ONLY)
    if not candidates:
        return []
    found = user_of(reranker, user, query)
    return _placed(candidates, reranker.rerank(found, candidates, top, **options))[:top]


async def arerank(
    reranker: Reranker,
    user: Any,
    query: str | None,
    candidates: Sequence[tuple[str, float | None]],
    top: int | None,
    **options: Any,
) -> list[tuple[int, Told]]:
    """`rerank`, without holding up the event loop."""
    if not isinstance(reranker, AsyncClient):
        return await asyncio.to_thread(rerank, reranker, user, query, candidates, top, **options)
    if not candidates:
        return []
    found = user_of(reranker, user, query)
    return _placed(candidates, await reranker.rerank(found, candidates, top, **options))[:top]


def user_of(reranker: Reranker, user: Any, query: str | None) -> Any:
    """Whom a query stands for: `user` itself, what that function says of the query, or else the
    user whose id the query is. Raises InputError where that tells nobody.
    """
    if callable(user) or user is None:
        if not query:
            raise InputError("there is no query to tell the user by: send one, or set `user`")
        user = user(query) if callable(user) else query
    if isinstance(user, str) and isinstance(reranker, PersonaReranker):
        raise InputError(
            f"a PersonaReranker knows nobody by an id such as {user[:60]!r}: set `user` to a "
            "history, a vector, or a function that makes one of the query"
        )
    return user


def item_id_of(metadata: Mapping[str, Any], key: str, place: int) -> str:
    """The item id in the metadata of the document at `place`; whole numbers become text."""
    value = metadata.get(key)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        there = ", ".join(repr(str(one)) for one in metadata) or "nothing"
        raise InputError(
            f"document {place} names no item: {key!r} in its metadata is {repr(value)[:60]}; put "
            f"the item's id there, or say with item_key which of its keys has it ({there})"
        )
    return value


def told_of(item: Ranked, degraded: str | None = None) -> Told:
    """What is told of an item, under keys that no document has by chance.

    p4r_rank, p4r_score (None where the generator's order holds), p4r_persona and p4r_persona_id
    (None beyond the first items that are explained), p4r_explanation ("" there), p4r_because:
    the share of each past interaction, p4r_degraded: why the service left the generator's order.
    """
    persona = item.persona
    return {
        "p4r_rank": item.rank,
        "p4r_score": item.score,
        "p4r_persona": persona.name if persona else None,
        "p4r_persona_id": persona.persona_id if persona else None,
        EXPLANATION: _explanation(item),
        "p4r_because": [
            {"item_id": one.item_id, "title": one.title, "share": one.share} for one in item.because
        ],
        "p4r_degraded": degraded,
    }


def text_of(item: Ranked, own: Callable[[str], str] | None) -> str:
    """What a retrieved document says: the item's `own` text, or its title and the explanation."""
    if own is not None:
        return own(item.item_id)
    if isinstance(item, RankedAnswer):
        title = item.item_title
    else:
        title = item.persona.fields.get("item_title") if item.persona else None
    return "\n".join(filter(None, [title, _explanation(item)]))


def _explanation(item: Ranked) -> str:
    if item.persona is None:
        return ""
    return f"{item.persona.name}: {item.persona.description} {item.persona.preference_rationale}"


def _placed(candidates: Sequence[tuple[str, float | None]], ranking: Any) -> list[tuple[int, Told]]:
    places: dict[str, list[int]] = {}
    for place, (item_id, _) in enumerate(candidates):
        places.setdefault(item_id, []).append(place)
    degraded = getattr(ranking, "reason", None)
    return [
        (place, told_of(item, degraded)) for item in ranking.items for place in places[item.item_id]
    ]


def _user_id(user: Any) -> str | None:
    if user is None or isinstance(user, str):
        return user
    raise InputError(
        "the service recommends to users whose interactions it keeps: give a user's id, or "
        "retrieve with a PersonaReranker"
    )


def _had(user: Any) -> set[str]:
    """The items of a history."""
    if user is None:
        return set()
    history = user.interactions if isinstance(user, UserVector) else user
    return {one.item_id for one in history if isinstance(one, Interaction)}
