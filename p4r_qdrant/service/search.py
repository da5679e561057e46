"""`POST /v1/search`: the items whose personas are nearest to a described person."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from p4r_qdrant.schemas.search import FoundAnswer, SearchAnswer, SearchBody
from p4r_qdrant.service import bodies, problems
from p4r_qdrant.service.security import reader
from p4r_qdrant.service.state import Service, service

router = APIRouter(dependencies=[Depends(reader)], tags=["reranking"])
Served = Annotated[Service, Depends(service)]


@router.post(
    "/v1/search",
    response_model=SearchAnswer,
    responses=problems.responses(429, 503),
    openapi_extra=bodies.documented(SearchBody),
)
async def search(
    body: Annotated[SearchBody, bodies.body_of(SearchBody)], served: Served
) -> dict[str, Any]:
    """Return the items of the whole catalogue whose personas are nearest to a described person.

    503 if the deadline is missed.
    """
    async with served.within_deadline():
        with served.backend.in_use() as live:
            [person] = await served.encode(live, [body.text], of_users=True)
            with served.span("query"):
                found = await served.ranker.threads.on_thread(
                    lambda: live.index.nearest_items(person, body.top, body.filter)
                )
            fingerprint = live.index.metadata.fingerprint
    items = [one for one in map(FoundAnswer.of, found) if one is not None]
    return {"items": items, "fingerprint": fingerprint}
