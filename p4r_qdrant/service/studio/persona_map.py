"""The map of the live version's personas: the one page with a script, and what it fetches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Query, Response

from p4r_qdrant.artifact_names import MAPS
from p4r_qdrant.errors import InputError
from p4r_qdrant.index import segments
from p4r_qdrant.index.maps import OTHER, PersonaMap, keys_of
from p4r_qdrant.records import PersonaMatch, State, StoredPersona
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.studio.desk import Desk
from p4r_qdrant.service.studio.visit import (
    HEADERS,
    PREFIX,
    Anybody,
    Known,
    Reviewing,
    StudioRoute,
    Visit,
)

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

Kind = Literal["segment", "category", "state"]
"""What the colours of the map mean."""
STATES: tuple[State, ...] = get_args(State)

_POLICY = "Content-Security-Policy"
_WITH_SCRIPT = {_POLICY: f"{HEADERS[_POLICY]}; script-src 'self'; connect-src 'self'"}
_SCRIPT = (Path(__file__).parent / "templates" / "map.js").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Colours:
    """A meaning of the colours: the names of the groups, in their order."""

    kind: Kind
    names: Sequence[str]


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
        colours = colours_of(visit, live)
        personas = await served.in_thread(lambda: live.index.stats().personas)
        problem, drawn = "", 0
        try:
            drawn = len(await served.in_thread(lambda: map_of(visit, live)))
        except ProblemError as error:
            problem = str(error)
    answer = visit.page(
        "map.html", colours=colours, drawn=drawn, personas=personas, problem=problem
    )
    answer.headers.update(_WITH_SCRIPT)
    return answer


@router.get("/map/points")
async def points(visit: Known) -> Response:
    """All places, segments and categories, see `PersonaMap.drawn`."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        content = await served.in_thread(lambda: map_of(visit, live).drawn())
    return Response(content, media_type="application/octet-stream")


@router.get("/map/states")
async def states(visit: Reviewing) -> Response:
    """The place of each persona's state among all states (8 bits), as the reviewers left it."""
    served, desk = visit.studio.served, visit.studio.desk
    if desk is None:
        raise ProblemError(404, "no_artifacts", "the studio runs without an artifact folder")
    with served.backend.in_use() as live:
        content = await served.in_thread(lambda: states_of(map_of(visit, live), desk).tobytes())
    return Response(content, media_type="application/octet-stream")


@router.get("/map/persona")
async def persona(visit: Known, number: Annotated[int, Query(ge=0, lt=2**31)]) -> Response:
    """A part of a page: the persona at a point of the map, as the index has it now."""
    served = visit.studio.served
    with served.backend.in_use() as live:
        found = await served.in_thread(lambda: _at(map_of(visit, live), live, number))
    return visit.page("map_persona.html", persona=found)


def colours_of(visit: Visit, live: Live) -> list[Colours]:
    """What the colours can mean for a visitor."""
    metadata = live.index.metadata
    found = [
        Colours("segment", [one.name for one in segments.from_text(metadata.segments)]),
        Colours("category", _names(metadata.map_categories)),
    ]
    if visit.may_review and visit.studio.desk is not None:
        found.append(Colours("state", STATES))
    return found


def _names(text: str) -> list[str]:
    try:
        return [str(one) for one in json.loads(text or "[]")]
    except (ValueError, TypeError):
        return []


def map_of(visit: Visit, live: Live) -> PersonaMap:
    """The map of the live version. Raises ProblemError."""
    folder, name = visit.studio.artifacts, live.index.metadata.persona_map
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
        return PersonaMap(folder / MAPS, name)
    except InputError:
        raise ProblemError(
            404,
            "no_map",
            "the artifact folder has no map of this version: p4r segments --artifacts DIR makes it",
        ) from None


def states_of(drawn: PersonaMap, desk: Desk) -> npt.NDArray[np.uint8]:
    """The place of each persona's state in STATES, (n,); OTHER where the folder has no such one."""
    place = {one: number for number, one in enumerate(STATES)}
    keys, found = list[int](), list[int]()
    for item_id, own, own_states in desk.states():
        keys += keys_of(item_id, own)
        found += [place[one] for one in own_states]
    result = np.full(len(drawn), OTHER, np.uint8)
    if keys:
        known = np.array(keys, np.uint64)
        order = np.argsort(known)
        wanted = drawn.keys()
        at = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
        hit = known[order][at] == wanted
        result[hit] = np.array(found, np.uint8)[order][at][hit]
    return result


def _at(drawn: PersonaMap, live: Live, number: int) -> StoredPersona:
    try:
        point = drawn.point_id(number)
    except IndexError:
        raise ProblemError(404, "no_point", "the map has no such point") from None
    [found] = live.index.explain([PersonaMatch("", 0.0, point)])
    if found.persona is None:
        raise ProblemError(404, "no_persona", "this persona is no longer in the index")
    return found.persona
