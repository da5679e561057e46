"""What the framework adapters share: user of a query, calls, and metadata of an item."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from p4r_qdrant.client import AsyncClient, Client
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Because, RankedItem
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.schemas.reranking import BecauseAnswer, RankedAnswer

Reranker = PersonaReranker | Client | AsyncClient
"""In this process, or over HTTP. An AsyncClient works with the async methods only."""

Ranked = RankedItem | RankedAnswer
Metadata = dict[str, Any]
"""What is added to the metadata of a document; see `metadata_of`."""

EXPLANATION = "p4r_explanation"
ASYNC_ONLY = "an AsyncClient works with the async methods only: call those, or pass a Client"


def recommend(
    reranker: Reranker, user: Any, query: str, top: int, wanted: Mapping[str, Any] | None
) -> Sequence[Ranked]:
    """The `top` items of the whole catalogue for the user of a query, best first.

    Items of the user's history are left out. Empty for an unknown user (None). `wanted` is the
    filter. Raises as `user_of` and the reranker do.
    """
    if isinstance(reranker, AsyncClient):
        raise InputError(ASYNC_ONLY)
    found = user_of(reranker, user, query)
    if isinstance(reranker, PersonaReranker):
        return reranker.recommend(found, top, filter=wanted).items
    user_id = _user_id(found)
    return reranker.recommend(user_id, top, filter=wanted).items if user_id else ()


async def arecommend(
    reranker: Reranker, user: Any, query: str, top: int, wanted: Mapping[str, Any] | None
) -> Sequence[Ranked]:
    """`recommend` without blocking the event loop."""
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
) -> list[tuple[int, Metadata]]:
    """Positions of candidates in the list, best first, each with the metadata of its item.

    Candidates of the same item stay together, in their order. `top` counts candidates; `options`
    are those of `PersonaReranker.rerank`. Raises as `user_of` and the reranker do.
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
) -> list[tuple[int, Metadata]]:
    """`rerank` without blocking the event loop."""
    if not isinstance(reranker, AsyncClient):
        return await asyncio.to_thread(rerank, reranker, user, query, candidates, top, **options)
    if not candidates:
        return []
    found = user_of(reranker, user, query)
    return _placed(candidates, await reranker.rerank(found, candidates, top, **options))[:top]


def user_of(reranker: Reranker, user: Any, query: str | None) -> Any:
    """The user of a query: `user`, the result of the function `user`, or the query as a user id.

    Raises InputError if there is no user.
    """
    if callable(user) or user is None:
        if not query:
            raise InputError(
                "there is no query to take the user id from: send a query, or set `user`"
            )
        user = user(query) if callable(user) else query
    if isinstance(user, str) and isinstance(reranker, PersonaReranker):
        raise InputError(
            f"a PersonaReranker cannot look up the user id {user[:60]!r}: set `user` to a "
            "history, a vector, or a function that makes one from the query"
        )
    return user


def item_id_of(metadata: Mapping[str, Any], key: str, place: int) -> str:
    """The item id in the metadata of the document at `place`. Integers become text."""
    value = metadata.get(key)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        there = ", ".join(repr(str(one)) for one in metadata) or "nothing"
        raise InputError(
            f"document {place} has no item id: {key!r} in its metadata is {repr(value)[:60]}; put "
            f"the item id there, or set item_key to the key that holds it ({there})"
        )
    return value


def metadata_of(item: Ranked, degraded: str | None = None) -> Metadata:
    """The metadata of an item.

    p4r_rank, p4r_score (None if the generator's order is kept), p4r_persona and p4r_persona_id
    (None for items that are not explained), p4r_extractive: whether that persona quotes reviews,
    p4r_explanation ("" for items that are not explained), p4r_why: the reasons as one sentence,
    p4r_because: the share of each past interaction, p4r_chosen_with: the share of each item of the
    user in the collaborative score, p4r_degraded: why the service kept the generator's order.
    """
    persona = item.persona
    return {
        "p4r_rank": item.rank,
        "p4r_score": item.score,
        "p4r_persona": persona.name if persona else None,
        "p4r_persona_id": persona.persona_id if persona else None,
        "p4r_extractive": persona.extractive if persona else None,
        EXPLANATION: _explanation(item),
        "p4r_why": item.why,
        "p4r_because": _shares(item.because),
        "p4r_chosen_with": _shares(item.chosen_with),
        "p4r_degraded": degraded,
    }


def text_of(item: Ranked, own: Callable[[str], str] | None) -> str:
    """The text of a retrieved document: the item's `own` text, or title and explanation."""
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


def _shares(reasons: Sequence[Because | BecauseAnswer]) -> list[Metadata]:
    return [{"item_id": one.item_id, "title": one.title, "share": one.share} for one in reasons]


def _placed(
    candidates: Sequence[tuple[str, float | None]], ranking: Any
) -> list[tuple[int, Metadata]]:
    places: dict[str, list[int]] = {}
    for place, (item_id, _) in enumerate(candidates):
        places.setdefault(item_id, []).append(place)
    degraded = getattr(ranking, "reason", None)
    return [
        (place, metadata_of(item, degraded))
        for item in ranking.items
        for place in places[item.item_id]
    ]


def _user_id(user: Any) -> str | None:
    if user is None or isinstance(user, str):
        return user
    raise InputError(
        "the service recommends only to users that it stores: pass a user id, or retrieve with a "
        "PersonaReranker"
    )
