"""`/v1/items`: read, replace and delete the personas of an item."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from p4r_qdrant import moderation, texts
from p4r_qdrant.errors import InputError
from p4r_qdrant.index import provisional
from p4r_qdrant.index.payload import FIRST_FIELDS, OWN_FIELDS, payload_fields
from p4r_qdrant.records import Item, Review
from p4r_qdrant.schemas.items import DeletedAnswer, ItemBody, ItemPersonasAnswer, PutItemAnswer
from p4r_qdrant.schemas.reranking import PersonaAnswer
from p4r_qdrant.service import bodies, problems
from p4r_qdrant.service.live import Live, Written
from p4r_qdrant.service.paths import ItemId
from p4r_qdrant.service.security import admin, reader
from p4r_qdrant.service.state import Service, service
from p4r_qdrant.users.records import ItemWork

RESERVED = {*Item.model_fields, *OWN_FIELDS, *FIRST_FIELDS}
"""Names that are not allowed for a caller's own fields."""

router = APIRouter(prefix="/v1/items", tags=["items"])
Served = Annotated[Service, Depends(service)]


@router.get(
    "/{item_id}/personas",
    dependencies=[Depends(reader)],
    response_model=ItemPersonasAnswer,
    responses=problems.responses(404, 503),
)
async def personas(item_id: ItemId, served: Served) -> dict[str, Any]:
    """Return an item's personas."""
    with served.backend.in_use() as live:
        found = await served.in_thread(lambda: live.writer.get(item_id))
    if not found:
        raise problems.ProblemError(404, "unknown_item", f"item {item_id!r} is not in the index")
    return {
        "item_id": item_id,
        "personas": [PersonaAnswer.of(one) for one in found],
        "fields": found[0].fields,
    }


@router.put(
    "/{item_id}",
    dependencies=[Depends(admin)],
    response_model=PutItemAnswer,
    responses={
        **problems.responses(409, 429, 503),
        202: {"model": PutItemAnswer, "description": "An LLM will make the personas"},
    },
    openapi_extra=bodies.documented(ItemBody),
)
async def put(
    item_id: ItemId,
    body: Annotated[ItemBody, bodies.body_of(ItemBody)],
    served: Served,
    response: Response,
) -> Any:
    """Replace an item's personas. Readers see the old ones or the new ones, never none.

    Rules of P4R_REASONING__RULES and the policy of the publish hold. Of two concurrent writes the
    later one stays. Without `personas`, an LLM makes them from
    metadata and reviews in the background; until then the item keeps the personas it has.
    """
    taken = next((name for name in body.fields if name in RESERVED), None)
    if taken is not None:
        raise InputError(f"fields: the name {taken!r} is reserved; use another name")
    item = Item(
        item_id=item_id,
        title=body.title,
        description=body.description,
        categories=body.categories,
        brand=body.brand,
        **body.fields,
    )
    fields = payload_fields(item, body.summary, body.domain)
    answer = {"item_id": item_id, "personas": len(body.personas or ()), "written": False}
    if body.personas is None:

        def queue() -> None:
            live.writer.check_fields(item_id, fields)  # now: a job could tell nobody
            reviews = [Review(item_id=item_id, **one.model_dump()) for one in body.reviews]
            live.users.jobs.add(ItemWork(item_id=item_id, item=item, reviews=reviews).job())

        with served.backend.in_use() as live:
            await served.in_thread(queue)
        response.status_code = 202
        return answer | {"reasoning": served.llm_state}
    personas = body.personas
    for one in personas:
        if problem := served.rules.problem(one):
            raise problems.ProblemError(
                422, "against_the_rules", f"the persona {one.persona_id!r}: {problem}"
            )

    def check_policy(live: Live) -> None:
        live.writer.refresh()
        policy = live.writer.metadata.policy
        if one := moderation.withheld(policy, personas, live.writer.get(item_id)):
            raise problems.ProblemError(
                409,
                "not_approved",
                f"the live version serves approved personas only, and the persona "
                f"{one.persona_id!r} is none: approve it in a review and publish, or publish "
                "without --approved-only",
            )

    async def write(live: Live) -> bool:
        await served.in_thread(lambda: check_policy(live))
        vectors: Any = body.vectors
        if vectors is None:
            own = texts.persona_texts(personas, body.summary)
            vectors = await served.encode(live, own, of_users=False)

        def replace() -> bool:
            done = live.writer.replace_item(item_id, personas, vectors, fields)
            provisional.add(live.writer, [(item_id, vectors)])
            number = served.backend.publishes(live)
            live.note(item_id, Written(number, personas, body.summary, fields))
            return done

        return await served.in_thread(replace)

    written = await _on_live_version(served, write)
    return answer | {"written": written, "reasoning": "none"}


@router.delete(
    "/{item_id}",
    dependencies=[Depends(admin)],
    response_model=DeletedAnswer,
    responses=problems.responses(404, 503),
)
async def delete(item_id: ItemId, served: Served) -> dict[str, Any]:
    """Delete an item from the index."""

    async def delete_item(live: Live) -> bool:
        def work() -> bool:
            was_there = live.writer.delete_item(item_id)
            live.note(item_id, Written(served.backend.publishes(live)))
            return was_there

        return await served.in_thread(work)

    if not await _on_live_version(served, delete_item):
        raise problems.ProblemError(404, "unknown_item", f"item {item_id!r} is not in the index")
    return {"deleted": item_id}


async def _on_live_version(served: Service, write: Callable[[Live], Awaitable[bool]]) -> bool:
    """Write to the live version, and again if a publish has switched to another one meanwhile."""
    while True:
        with served.backend.in_use() as live:
            done = await write(live)
        await served.in_thread(served.backend.refresh)
        if served.backend.is_now(live):
            return done
