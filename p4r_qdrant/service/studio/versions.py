"""The page of the versions: what `p4r status` prints, and what a version changes for readers."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response

from p4r_qdrant.index.changes import Changes
from p4r_qdrant.rerank.status import status_fields
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

ONLY_ADMIN = ("where", "adapter")
"""Fields that name folders and addresses."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A version, and what it changes for readers."""

    name: str
    is_live: bool
    changes: Changes


@router.get("/versions")
async def versions(visit: Known) -> Response:
    """The state of the live version, and the others."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        found = await served.in_thread(served.backend.versions)
        status = await served.in_thread(
            lambda: status_fields(live.index.stats(), found, live.version)
        )
        live_name = live.version
    compared = [
        Compared(one.name, one.name == live_name, changes)
        for one in found
        if (changes := Changes.from_text(one.metadata.changes)) is not None
    ]
    fields = {
        name: value
        for name, value in status.items()
        if value and (visit.role == "admin" or name not in ONLY_ADMIN)
    }
    return visit.page(
        "versions.html", fields=fields, compared=compared, problem=served.backend.problem
    )
