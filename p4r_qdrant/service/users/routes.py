"""`/v1/users`: what users do, what is known of them, and how they take it away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.payload import ITEM_TITLE, SUMMARY
from p4r_qdrant.service import problems
from p4r_qdrant.service.paths import UserId
from p4r_qdrant.service.schemas import (
    AcceptedAnswer,
    ErasedAnswer,
    ExportedInteraction,
    InteractionBody,
    UserAnswer,
)
from p4r_qdrant.service.security import admin
from p4r_qdrant.service.state import Service, service
from p4r_qdrant.service.users.store import Job, StoredInteraction

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
    one = await served.in_thread(lambda: _told(served, user_id, body))
    one = await _encoded(served, one)
    reads = bool(body.title or body.text)
    about = {"item_id": one.item_id, "timestamp": one.timestamp}
    job = Job(f"aspects {one.key}", "aspects", user_id, about) if reads else None
    new = await served.in_thread(lambda: served.backend.users.add(one, job))
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
    store, fingerprint = served.backend.users, served.backend.fingerprint
    found = await served.in_thread(lambda: store.known([user_id], fingerprint))
    if user_id not in found:
        raise problems.ProblemError(404, "unknown_user", f"user {user_id!r} is not known")
    recent = await served.in_thread(lambda: store.recent(user_id))
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
                "encoded": one.vector is not None and one.fingerprint == fingerprint,
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
    lines = served.backend.users.interactions(user_id)
    first = await served.in_thread(lambda: _some(lines))  # what fails, fails before the answer

    async def stream() -> AsyncIterator[bytes]:
        some = first
        while some:
            yield b"".join(map(_line, some))
            some = await asyncio.to_thread(_some, lines)

    return StreamingResponse(stream(), media_type="application/x-ndjson")


@router.delete("/{user_id}", response_model=ErasedAnswer, responses=problems.responses(503))
async def erase(user_id: UserId, served: Served) -> dict[str, Any]:
    """Erase a user here, and have the worker erase what it made of the reviews."""
    erased = await served.in_thread(lambda: served.backend.users.erase(user_id))
    return {"user_id": user_id, "erased": erased}


def _check_time(timestamp: int) -> None:
    if timestamp > time.time() + CLOCKS_DIFFER_S:
        hint = "; it looks like milliseconds" if timestamp > 10**11 else ""
        raise InputError(
            f"timestamp: {timestamp} lies in the future: send seconds since 1970{hint}"
        )


def _told(served: Service, user_id: str, body: InteractionBody) -> StoredInteraction:
    """The interaction with what is known of the item, or of the interaction itself."""
    personas = served.backend.writer.get(body.item_id)
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
    held = served.backend.users.get(one)
    return held if held is not None and held.says_the_same_as(one) else one


async def _encoded(served: Service, one: StoredInteraction) -> StoredInteraction:
    """With its vector, if it has a text and there is an encoder; it is kept without one, too."""
    if not one.text or (one.vector is not None and one.fingerprint == served.backend.fingerprint):
        return one
    seconds = served.backend.settings.service.deadline_ms / 1000
    try:
        async with asyncio.timeout(seconds):
            rows = await served.encode([one.text])
    except (problems.ProblemError, TimeoutError):
        return replace(one, vector=None, fingerprint="")
    return one.encoded(rows[0], served.backend.fingerprint)


def _some(lines: Iterator[StoredInteraction]) -> list[StoredInteraction]:
    return list(islice(lines, 100))


def _line(one: StoredInteraction) -> bytes:
    told = {name: getattr(one, name) for name in ExportedInteraction.model_fields}
    return ExportedInteraction(**told).model_dump_json().encode() + b"\n"
