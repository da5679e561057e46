"""`/v1/users`: add interactions, read, export and erase a user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from p4r_qdrant.errors import P4RError
from p4r_qdrant.index.payload import ITEM_TITLE, SUMMARY
from p4r_qdrant.schemas.users import (
    AcceptedAnswer,
    ErasedAnswer,
    ExportedInteraction,
    InteractionBody,
    UserAnswer,
)
from p4r_qdrant.service import bodies, problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.paths import UserId
from p4r_qdrant.service.security import admin
from p4r_qdrant.service.state import Service, service
from p4r_qdrant.users.records import StoredInteraction, reading_job
from p4r_qdrant.users.store import Known

router = APIRouter(prefix="/v1/users", tags=["users"], dependencies=[Depends(admin)])
Served = Annotated[Service, Depends(service)]


@router.post(
    "/{user_id}/interactions",
    status_code=202,
    response_model=AcceptedAnswer,
    responses=problems.responses(429, 503),
    openapi_extra=bodies.documented(InteractionBody),
)
async def interact(
    user_id: UserId,
    body: Annotated[InteractionBody, bodies.body_of(InteractionBody)],
    served: Served,
) -> dict[str, Any]:
    """Store an interaction. It is durable once the answer is sent.

    The user vector includes it at once, by the item's summary; an LLM reads the review later.
    """
    with served.backend.in_use() as live:
        one, known = await served.in_thread(lambda: _looked_up(live, user_id, body))
        one = await _encoded(served, live, one)
        job = reading_job(one)
        new = await served.in_thread(lambda: live.users.add(one, job, known))
    return {
        "user_id": user_id,
        "item_id": one.item_id,
        "timestamp": one.timestamp,
        "new": new,
        "encoded": one.vector is not None,
        "aspects": served.llm_state if job else "none",
    }


@router.get("/{user_id}", response_model=UserAnswer, responses=problems.responses(404, 503))
async def read(user_id: UserId, served: Served) -> dict[str, Any]:
    """Return the interactions that make the user vector, newest first."""
    with served.backend.in_use() as live:
        recent = await served.in_thread(lambda: live.users.recent(user_id))
    if not recent:
        raise problems.ProblemError(404, "unknown_user", f"user {user_id!r} is unknown")
    return {
        "user_id": user_id,
        "personalized": any(one.text for one in recent),
        "history": [
            {
                "item_id": one.item_id,
                "timestamp": one.timestamp,
                "title": one.title,
                "rating": one.rating,
                "has_aspects": bool(one.aspects),
                "encoded": one.vector is not None,
            }
            for one in recent
        ],
    }


@router.get(
    "/{user_id}/export",
    response_class=StreamingResponse,
    responses={
        **problems.responses(503),
        200: {
            "description": "JSON Lines: everything stored of the user, one interaction per line",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
)
async def export(user_id: UserId, served: Served) -> StreamingResponse:
    """Stream everything stored of a user; empty for an unknown user."""

    def parts() -> Iterator[bytes]:
        with served.backend.in_use() as live:
            yield from map(_line, live.users.interactions.of(user_id))

    lines = parts()
    first = await served.in_thread(lambda: _some(lines))  # an error comes before the answer begins

    async def stream() -> AsyncIterator[bytes]:
        some = first
        while some:
            yield b"".join(some)
            some = await asyncio.to_thread(_some, lines)

    return StreamingResponse(stream(), media_type="application/x-ndjson")


@router.delete("/{user_id}", response_model=ErasedAnswer, responses=problems.responses(404, 503))
async def erase(user_id: UserId, served: Served) -> dict[str, Any]:
    """Erase a user. The worker erases what it made of the user's reviews."""

    def work() -> int:
        if not live.users.knows(user_id):
            raise problems.ProblemError(
                404,
                "unknown_user",
                f"user {user_id!r} is unknown here; `p4r erase` erases reviews in files",
            )
        return live.users.erase(user_id)

    with served.backend.in_use() as live:
        erased = await served.in_thread(work)
    served.backend.cache.clear()  # a vector tells something of its text
    return {"user_id": user_id, "erased": erased}


def _looked_up(live: Live, user_id: str, body: InteractionBody) -> tuple[StoredInteraction, Known]:
    """The interaction, as it is stored already or with what is known of its item."""
    one = StoredInteraction(
        user_id,
        body.item_id,
        body.timestamp,
        body.rating,
        review_title=body.title,
        review_text=body.text,
    )
    known = live.users.look_up(one)
    if known.held is not None and known.held.says_the_same_as(one):
        return known.held, known
    personas = live.writer.get(body.item_id)
    fields = personas[0].fields if personas else {}
    title, summary = (str(fields.get(name) or "") for name in (ITEM_TITLE, SUMMARY))
    return replace(one, title=title, summary=summary), known


async def _encoded(served: Service, live: Live, one: StoredInteraction) -> StoredInteraction:
    """The interaction with its vector, if it has a text and an encoder is ready."""
    if not one.text or one.vector is not None:
        return one
    try:
        async with asyncio.timeout(served.backend.settings.service.deadline_ms / 1000):
            rows = await served.encode(live, [one.text], of_users=True)
    except (problems.ProblemError, TimeoutError, P4RError, RuntimeError):
        return one
    return one.encoded(rows[0])


def _some(lines: Iterator[bytes]) -> list[bytes]:
    return list(islice(lines, 100))


def _line(one: StoredInteraction) -> bytes:
    fields = {name: getattr(one, name) for name in ExportedInteraction.model_fields}
    return ExportedInteraction(**fields).model_dump_json().encode() + b"\n"
