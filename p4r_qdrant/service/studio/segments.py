"""The page of the segments that the live version keeps."""

from __future__ import annotations

from fastapi import APIRouter, Response

from p4r_qdrant.index import segments
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)


@router.get("/segments")
async def all_segments(visit: Known) -> Response:
    """The segments, the largest first."""
    with visit.studio.served.backend.in_use() as live:
        found = segments.from_text(live.index.metadata.segments)
    most = max((one.personas for one in found), default=1)
    return visit.page("segments.html", segments=found, most=most)
