"""`GET /v1/recommendations/{user}`: the persona index as a candidate generator."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from p4r_qdrant.encoder.user_vector import UserVector, history_texts, user_vector
from p4r_qdrant.index.filters import from_json
from p4r_qdrant.records import Ranking
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.schemas.reranking import RankedAnswer, RecommendationsAnswer
from p4r_qdrant.service import problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.paths import UserId
from p4r_qdrant.service.security import TellsBecause, reader
from p4r_qdrant.service.state import Service, service
from p4r_qdrant.users.records import StoredInteraction

router = APIRouter(prefix="/v1/recommendations", tags=["reranking"])
Served = Annotated[Service, Depends(service)]
Filter = Annotated[
    str | None, Query(max_length=10_000, description='JSON, as in rerank: {"language": "en"}')
]

Seen = Annotated[bool, Query(description="Whether items already seen may come again.")]


@router.get(
    "/{user_id}",
    dependencies=[Depends(reader)],
    response_model=RecommendationsAnswer,
    responses=problems.responses(404, 429, 503),
)
async def recommend(
    user_id: UserId,
    served: Served,
    because: TellsBecause,
    top: Annotated[int, Query(ge=1, le=1000)] = 10,
    filter: Filter = None,  # noqa: A002
    seen: Seen = False,
) -> dict[str, Any]:
    """Return the best items of the whole catalogue for a known user, without items already seen.

    Personas and, if the index has it, the collaborative part propose items; one score orders them.
    Seen are the items of the newest 5000 interactions. 503 if the deadline is missed.
    """
    wanted = from_json(filter, "filter")
    on_thread = served.ranker.threads.on_thread

    def work() -> Ranking:
        user = KnownUser(vector, live.users.items(user_id))
        return live.reranker.recommend(user, top, filter=wanted, seen=seen)

    async with served.within_deadline():
        with served.backend.in_use() as live:
            vector = await vector_of_user(user_id, served, live)
            with served.span("query"):
                ranking = await on_thread(work)
    items = [RankedAnswer.of(item, because=because) for item in ranking.items]
    return {"user_id": user_id, "personalized": ranking.personalized, "items": items}


async def vector_of_user(user_id: str, served: Service, live: Live) -> UserVector | None:
    """The user vector; None if no interaction has a text. Raises ProblemError (404, 429, 503)."""

    def work() -> tuple[UserVector | None, list[StoredInteraction]]:
        found = live.users.user_vectors([user_id]).get(user_id)
        return found, [] if found is not None else live.users.recent(user_id)

    found, recent = await served.ranker.threads.on_thread(work)
    if found is not None:
        return found
    if not recent:
        raise problems.ProblemError(404, "unknown_user", f"user {user_id!r} is unknown")
    pairs = history_texts([one.record for one in recent], live.history.length)
    if not pairs:
        return None
    rows = await served.encode(live, [text for _, text in pairs], of_users=True)
    return user_vector([one for one, _ in pairs], rows, live.history.decay)
