"""`POST /rerank`: the protocol that Cohere, Jina, Voyage and LiteLLM share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import EncoderError, IndexRefusedError, IndexUnavailableError
from p4r_qdrant.live.pair import Vector
from p4r_qdrant.records import is_id
from p4r_qdrant.schemas.common_rerank import (
    CommonRerankAnswer,
    CommonRerankBody,
    CommonResult,
    DocumentAnswer,
)
from p4r_qdrant.schemas.reranking import FusionBody, Reason, RerankBody, UserBody
from p4r_qdrant.service import bodies, problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.ranking import Found
from p4r_qdrant.service.recommendations import vector_of_user
from p4r_qdrant.service.request import FailedError, log_failure, reason_of
from p4r_qdrant.service.security import reader
from p4r_qdrant.service.state import Service, service

router = APIRouter(dependencies=[Depends(reader)], tags=["reranking"])
Served = Annotated[Service, Depends(service)]


@dataclass(frozen=True, slots=True)
class Person:
    """The query: a stored user, or a described person. vector: None if nothing is known."""

    user_id: str | None
    vector: Vector | None


@router.post(
    "/rerank",
    response_model=CommonRerankAnswer,
    responses=problems.responses(429, 503),
    openapi_extra=bodies.documented(CommonRerankBody),
)
@router.post("/v2/rerank", include_in_schema=False, response_model=CommonRerankAnswer)
async def rerank(
    body: Annotated[CommonRerankBody, bodies.body_of(CommonRerankBody)],
    request: Request,
    served: Served,
) -> CommonRerankAnswer:
    """Order documents for a person, in the protocol of Cohere, Jina and Voyage.

    The query is the id of a stored user, or a text that describes a person. Documents are ids of
    items, which are scored by their personas, or texts, which are compared with the person as they
    are. With a text among the documents the persona score (Eq. 10) alone counts.
    """
    failed: Reason | None = None
    scores: list[float | None] = [None] * len(body.texts)
    degraded: Reason | None = None
    try:
        async with asyncio.timeout(served.backend.settings.service.deadline_ms / 1000):
            with served.backend.in_use() as live:
                person = await _person(body.query, served, live)
                scores, degraded = await _scores(body.texts, person, served, live)
    except TimeoutError:
        failed = "deadline"
    except FailedError as error:
        failed = error.reason
    except (IndexUnavailableError, IndexRefusedError) as error:
        log_failure(error)
        failed = reason_of(error)
    except EncoderError as error:
        log_failure(error)
        failed = "encoder_unavailable"
    if failed:  # the ranker counts what degrades there
        served.metrics.degraded.labels(failed).inc()
    request.state.log_fields = {"candidates": len(scores)}
    return _answer(body, scores, failed or degraded, request.state.request_id)


async def _person(query: str, served: Service, live: Live) -> Person:
    """Raises ProblemError (429, 503)."""
    if is_id(query):
        try:
            vector = await vector_of_user(query, served, live)
        except ProblemError as error:
            if error.status != 404:
                raise
        else:
            return Person(query, vector)
    [row] = await served.encode(live, [query], of_users=True)
    return Person(None, row)


async def _scores(
    documents: Sequence[str], person: Person, served: Service, live: Live
) -> tuple[list[float | None], Reason | None]:
    """A score for each document, and the reason why none has one."""
    ids = [one for one in dict.fromkeys(documents) if is_id(one)]
    of_items: Mapping[str, tuple[float | None, float | None]] = {}
    if person.vector is None:
        return [None] * len(documents), None
    if ids:
        user = UserBody(user_id=person.user_id, candidates=list(ids))
        [ranking], [reason] = await served.ranker.rerank(
            RerankBody(users=[user], explain=0, fusion=_fusion(person, served)),
            Found(live, [person.vector]),
        )
        if reason is not None:
            return [None] * len(documents), reason
        of_items = {one.item_id: (one.score, one.persona_score) for one in ranking.items}
    unknown = [
        one for one in dict.fromkeys(documents) if of_items.get(one, (None, None))[1] is None
    ]
    if not unknown:
        return [of_items[one][0] for one in documents], None
    rows = await served.encode(live, unknown, of_users=False)
    scores: dict[str, float | None] = {one: score for one, (_, score) in of_items.items()}
    known = person.vector
    vector = known.vector if isinstance(known, UserVector) else known
    scores |= zip(unknown, (rows @ vector).tolist(), strict=True)
    return [scores[one] for one in documents], None


def _fusion(person: Person, served: Service) -> FusionBody | None:
    """None: as the settings and the version say.

    Of a described person only the persona score is known, whatever weight it has for others.
    Weighted fusion needs scores, and this protocol has none.
    """
    is_weighted = served.backend.settings.rerank.fusion == "weighted"
    return FusionBody(method="none") if is_weighted or person.user_id is None else None


def _answer(
    body: CommonRerankBody,
    scores: Sequence[float | None],
    degraded: Reason | None,
    request_id: str,
) -> CommonRerankAnswer:
    """The results, best first; of equal scores, or without, in the order of the request."""
    relevance = [_relevance(score) for score in scores]
    order = sorted(range(len(scores)), key=lambda one: -relevance[one])
    documents = body.texts
    results = [
        CommonResult(
            index=one,
            relevance_score=relevance[one],
            document=DocumentAnswer(text=documents[one]) if body.return_documents else None,
        )
        for one in order[: body.top]
    ]
    return CommonRerankAnswer(
        id=request_id, model=body.model, results=results, data=results, degraded=degraded
    )


def _relevance(score: float | None) -> float:
    """A score between 0 and 1 that keeps the order; 0 if there is none."""
    return 0.0 if score is None else 1 / (1 + math.exp(-min(max(score, -500.0), 500.0)))
