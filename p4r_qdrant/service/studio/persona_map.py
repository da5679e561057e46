"""The map of the live version's personas: the one page with a script, and what it fetches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response

from p4r_qdrant.errors import InputError
from p4r_qdrant.index import segments
from p4r_qdrant.index.maps import PersonaMap
from p4r_qdrant.records import PersonaMatch, StoredPersona
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.studio.visit import HEADERS, PREFIX, Anybody, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

_POLICY = "Content-Security-Policy"
_WITH_SCRIPT = {_POLICY: f"{HEADERS[_POLICY]}; script-src 'self'; connect-src 'self'"}
_SCRIPT = (Path(__file__).parent / "templates" / "map.js").read_text(encoding="utf-8")


@router.get("/map.js")
async def script(visit: Anybody) -> Response:
    """The script that draws the map."""
    del visit
    return Response(_SCRIPT, media_type="text/javascript")


@router.get("/map")
async def persona_map(visit: Known) -> Response:
    """The page of the map; it says what is missing if there is none."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        found = segments.from_text(live.index.metadata.segments)
        personas = await served.in_thread(lambda: live.index.stats().personas)
        problem, drawn = "", 0
        try:
            drawn = len(await served.in_thread(lambda: _map(visit, live)))
        except ProblemError as error:
            problem = str(error)
    answer = visit.page("map.html", segments=found, drawn=drawn, personas=personas, problem=problem)
    answer.headers.update(_WITH_SCRIPT)
    return answer


@router.get("/map/points")
async def points(visit: Known) -> Response:
    """All places and segments, see `PersonaMap.drawn`."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        content = await served.in_thread(lambda: _map(visit, live).drawn())
    return Response(content, media_type="application/octet-stream")


@router.get("/map/persona")
async def persona(visit: Known, number: Annotated[int, Query(ge=0, lt=2**31)]) -> Response:
    """A part of a page: the persona at a point of the map, as the index has it now."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        found = await served.in_thread(lambda: _at(_map(visit, live), live, number))
    return visit.page("map_persona.html", persona=found)


def _map(visit: Known, live: Live) -> PersonaMap:
    """The map of the live version. Raises ProblemError."""
    folder, name = visit.studio.maps, live.index.metadata.persona_map
    if not name:
        raise ProblemError(
            404, "no_map", "this version has no map: p4r segments --artifacts DIR makes it"
        )
    if folder is None:
        raise ProblemError(
            404,
            "no_map",
            "the studio runs without an artifact folder, where the map lies: start it with "
            "--artifacts DIR",
        )
    try:
        return PersonaMap(folder, name)
    except InputError:
        raise ProblemError(
            404,
            "no_map",
            "the artifact folder has no map of this version: p4r segments --artifacts DIR makes it",
        ) from None


def _at(drawn: PersonaMap, live: Live, number: int) -> StoredPersona:
    try:
        point = drawn.point_id(number)
    except IndexError:
        raise ProblemError(404, "no_point", "the map has no such point") from None
    [found] = live.index.explain([PersonaMatch("", 0.0, point)])
    if found.persona is None:
        raise ProblemError(404, "no_persona", "this persona is no longer in the index")
    return found.persona
