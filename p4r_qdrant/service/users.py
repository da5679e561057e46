"""`/v1/users`: what users do, what is known of them, and how they take it away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.index.payload import ITEM_TITLE, SUMMARY
from p4r_qdrant.schemas import (
    AcceptedAnswer,
    ErasedAnswer,
    ExportedInteraction,
    InteractionBody,
    UserAnswer,
)
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Live
from p4r_qdrant.service.paths import UserId
from p4r_qdrant.service.security import admin
from p4r_qdrant.service.state import Service, service
from p4r_qdrant.users.records import Job, StoredInteraction

CLOCKS_DIFFER_S = 300
"""How far ahead of our clock a time stamp may be."""

router = APIRouter(prefix="/v1/users", tags=["users"], dependencies=[Depends(admin)])
Served = Annotated[Service, Depends(service)]


@router.post(
    "/{user_id}/interactions",
    status_code=202,
    response_model=AcceptedAnswer,
    responses=problems.responses(429, 503),
)
async def interact(user_id: UserId, body: InteractionBody, served: Served) -> dict[str, Any]:
    """Keep an interaction; once answered it is not lost.

    The user vector counts it at once, by the item's summary; an LLM reads the review later.
    """
    _check_time(body.timestamp)
    reads = bool(body.title or body.text)
    with served.backend.in_use() as live:
        one = await served.in_thread(lambda: _told(live, user_id, body))
        one = await _encoded(served, live, one)
        about = {"item_id": one.item_id, "timestamp": one.timestamp}
        job = Job(f"aspects {one.key}", "aspects", user_id, about) if reads else None
        new = await served.in_thread(lambda: live.users.add(one, job))
    return {
        "user_id": user_id,
        "item_id": one.item_id,
        "timestamp": one.timestamp,
        "new": new,
        "encoded": one.vector is not None,
        "aspects": served.llm_state if reads else "none",
    }


@router.get("/{user_id}", response_model=UserAnswer, responses=problems.responses(404, 503))
async def read(user_id: UserId, served: Served) -> dict[str, Any]:
    """What the user vector is made of, newest first."""
    with served.backend.in_use() as live:
        recent = await served.in_thread(lambda: live.users.recent(user_id))
    if not recent:
        raise problems.ProblemError(404, "unknown_user", f"user {user_id!r} is not known")
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
            "description": "JSON Lines: everything kept of the user, an interaction a line",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
)
async def export(user_id: UserId, served: Served) -> StreamingResponse:
    """Everything kept of a user, streamed; empty for somebody unknown."""

    def parts() -> Iterator[bytes]:
        with served.backend.in_use() as live:
            yield from map(_line, live.users.interactions(user_id))

    lines = parts()
    first = await served.in_thread(lambda: _some(lines))  # what fails, fails before the answer

    async def stream() -> AsyncIterator[bytes]:
        some = first
        while some:
            yield b"".join(some)
            some = await asyncio.to_thread(_some, lines)

    return StreamingResponse(stream(), media_type="application/x-ndjson")


@router.delete("/{user_id}", response_model=ErasedAnswer, responses=problems.responses(503))
async def erase(user_id: UserId, served: Served) -> dict[str, Any]:
    """Erase a user here, and have the worker erase what it made of the reviews."""
    with served.backend.in_use() as live:
        erased = await served.in_thread(lambda: live.users.erase(user_id))
    return {"user_id": user_id, "erased": erased}


def _check_time(timestamp: int) -> None:
    if timestamp > time.time() + CLOCKS_DIFFER_S:
        hint = "; it looks like milliseconds" if timestamp > 10**11 else ""
        raise InputError(
            f"timestamp: {timestamp} lies in the future: send seconds since 1970{hint}"
        )


def _told(live: Live, user_id: str, body: InteractionBody) -> StoredInteraction:
    """The interaction with what is known of the item, or of the interaction itself."""
    personas = live.writer.get(body.item_id)
    fields = personas[0].fields if personas else {}
    one = StoredInteraction(
        user_id,
        body.item_id,
        body.timestamp,
        body.rating,
        str(fields.get(ITEM_TITLE) or ""),
        str(fields.get(SUMMARY) or ""),
        body.title,
        body.text,
    )
    held = live.users.get(one)
    return held if held is not None and held.says_the_same_as(one) else one


async def _encoded(served: Service, live: Live, one: StoredInteraction) -> StoredInteraction:
    """With its vector, if it has a text and there is an encoder; it is kept without one, too."""
    if not one.text or one.vector is not None:
        return one
    try:
        async with asyncio.timeout(served.backend.settings.service.deadline_ms / 1000):
            rows = await served.encode(live, [one.text])
    except (problems.ProblemError, TimeoutError, P4RError, RuntimeError):
        return one
    return one.encoded(rows[0])


def _some(lines: Iterator[bytes]) -> list[bytes]:
    return list(islice(lines, 100))


def _line(one: StoredInteraction) -> bytes:
    told = {name: getattr(one, name) for name in ExportedInteraction.model_fields}
    return ExportedInteraction(**told).model_dump_json().encode() + b"\n"
