"""The page of the versions: what `p4r status` prints."""

from __future__ import annotations

from fastapi import APIRouter, Response

from p4r_qdrant.rerank.status import status_fields
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

ONLY_ADMIN = ("where", "adapter")
"""Fields that name folders and addresses."""


@router.get("/versions")
async def versions(visit: Known) -> Response:
    """The state of the live version, and the others."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        status = await served.in_thread(
            lambda: status_fields(live.index.stats(), served.backend.versions(), live.version)
        )
    fields = {
        name: value
        for name, value in status.items()
        if value and (visit.role == "admin" or name not in ONLY_ADMIN)
    }
    return visit.page("versions.html", fields=fields, problem=served.backend.problem)
