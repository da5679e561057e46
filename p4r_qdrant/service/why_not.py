"""`POST /v1/why-not`: why an item is not among the first, and what would lift it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends

from p4r_qdrant.encoder.user_vector import history_texts, user_vector
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.records import WhyNot
from p4r_qdrant.rerank.users import KnownUser, items_of
from p4r_qdrant.schemas.reranking import UserBody
from p4r_qdrant.schemas.why_not import WhyNotAnswer, WhyNotBody
from p4r_qdrant.service import bodies, problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.ranking import check_collaborative
from p4r_qdrant.service.recommendations import vector_of_user
from p4r_qdrant.service.security import TellsBecause, reader
from p4r_qdrant.service.state import Service, service

router = APIRouter(dependencies=[Depends(reader)], tags=["reranking"])
Served = Annotated[Service, Depends(service)]


@router.post(
    "/v1/why-not",
    response_model=WhyNotAnswer,
    responses=problems.responses(404, 429, 503),
    openapi_extra=bodies.documented(WhyNotBody),
)
async def why_not(
    body: Annotated[WhyNotBody, bodies.body_of(WhyNotBody)], served: Served, because: TellsBecause
) -> dict[str, Any]:
    """Return why a candidate is not among the first, and the smallest change that lifts it there.

    A change leaves one of the user's own items out or, with `additions`, adds a known one. It was
    applied: its rank is that of the same candidates, ranked again. 503 if the deadline is missed.
    """
    options = body.fusion.settings() if body.fusion else None
    async with served.within_deadline():
        with served.backend.in_use() as live:
            check_collaborative(options, live)
            user = await _user(body.user, served, live)

            def work() -> WhyNot:
                return live.reranker.why_not(
                    user,
                    body.item_id,
                    body.user.pairs(),
                    body.top,
                    additions=body.additions,
                    rerank=options,
                )

            with served.span("query"):
                found = await served.ranker.threads.on_thread(work)
    return WhyNotAnswer.of(found, because=because or body.user.user_id is None)


async def _user(body: UserBody, served: Service, live: Live) -> KnownUser:
    """The user of a request. Raises ProblemError (404, 429, 503) and VectorError."""
    if body.vector is not None:
        check_vectors([body.vector], live.index.metadata.dimension, "user")
        return KnownUser(np.asarray(body.vector, dtype=np.float32))
    if body.user_id is not None:
        user_id = body.user_id
        vector = await vector_of_user(user_id, served, live)
        return KnownUser(vector, await served.in_thread(lambda: live.users.items(user_id)))
    history = body.interactions()
    pairs = history_texts(history, live.history.length)
    if not pairs:
        return KnownUser(None, items_of(history))
    rows = await served.encode(live, [text for _, text in pairs], of_users=True)
    made = user_vector([one for one, _ in pairs], rows, live.history.decay)
    return KnownUser(made, items_of(history))
