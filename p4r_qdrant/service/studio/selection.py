"""A part of the map as a list: what a lasso, a view or a group holds, to be opened and downloaded.

The browser sends the outline, not the points: the server finds what lies in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.maps import PersonaMap
from p4r_qdrant.index.payload import CATEGORY, ITEM_TITLE
from p4r_qdrant.records import PersonaMatch, StoredPersona
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.studio.persona_map import Kind, colours_of, map_of, states_of
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute, Visit
from p4r_qdrant.spreadsheets import formula_safe

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

PAGE = 60
"""Personas of a page."""
MOST_ROWS = 10_000
"""Personas of a download."""
MOST_CORNERS = 256
AT_ONCE = 256
COLUMNS = ("item_id", "title", "category", "persona_id", "name", "description")
_NUMBERS = r"([0-9]{1,5}( [0-9]{1,5})*)?"


class Chosen(BaseModel):
    """What is listed. area: the corners of an outline, "x y x y ..." in units of the map.

    by, only: personas of one group alone, by its place.
    """

    model_config = ConfigDict(str_strip_whitespace=True)

    area: Annotated[str, Field(max_length=12 * MOST_CORNERS, pattern=rf"^{_NUMBERS}$")] = ""
    by: Kind = "segment"
    only: Annotated[str, Field(pattern=r"^[0-9]{0,3}$")] = ""
    start: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """(n, 2); empty without an outline. Raises ProblemError if they make none."""
        numbers = [float(one) for one in self.area.split()]
        if numbers and (len(numbers) % 2 or len(numbers) < 6):
            raise ProblemError(422, "invalid", "an outline has at least three corners")
        return np.array(numbers).reshape(-1, 2)


@router.get("/map/selected")
async def selected(visit: Known, chosen: Annotated[Chosen, Query()]) -> Response:
    """The personas of a part of the map, page by page."""
    served = visit.studio.served
    given = chosen.model_dump(exclude={"start"})
    with served.backend.in_use() as live:
        colours = colours_of(visit, live)

        def work() -> tuple[npt.NDArray[np.intp], int, list[StoredPersona]]:
            drawn = map_of(visit, live)
            found = _numbers(visit, live, drawn, chosen)
            some = found[chosen.start : chosen.start + PAGE]
            return found, len(drawn), list(_personas(live, drawn, some))

        found, every, personas = await served.in_thread(work)
    following = chosen.start + PAGE
    return visit.page(
        "selected.html",
        personas=personas,
        total=len(found),
        every=every,
        start=chosen.start,
        shown=min(PAGE, max(0, len(found) - chosen.start)),
        most=MOST_ROWS,
        chosen=chosen,
        colours=colours,
        following=visit.link("/map/selected", **given, start=following)
        if following < len(found)
        else None,
        download=visit.link("/map/selected.csv", **given),
    )


@router.get("/map/selected.csv")
async def download(visit: Known, chosen: Annotated[Chosen, Query()]) -> Response:
    """The same as a table that no spreadsheet computes."""
    served = visit.studio.served
    with served.backend.in_use() as live:

        def work() -> str:
            drawn = map_of(visit, live)
            found = _numbers(visit, live, drawn, chosen)[:MOST_ROWS]
            return _table(_personas(live, drawn, found))

        text = await served.in_thread(work)
    disposition = {"Content-Disposition": 'attachment; filename="personas.csv"'}
    return Response(text.encode(errors="replace"), 200, disposition, "text/csv; charset=utf-8")


def _numbers(visit: Visit, live: Live, drawn: PersonaMap, chosen: Chosen) -> npt.NDArray[np.intp]:
    """The numbers of the points that are chosen, in the order of the map."""
    kept = np.ones(len(drawn), np.bool_)
    if chosen.only:
        kinds = {one.kind for one in colours_of(visit, live)}
        if chosen.by not in kinds:
            raise ProblemError(403, "forbidden", "only reviewers may filter by state")
        kept &= _groups(visit, drawn, chosen.by) == int(chosen.only)
    corners = chosen.corners
    if len(corners):
        kept &= inside(drawn.places(), corners)
    return np.flatnonzero(kept)


def _groups(visit: Visit, drawn: PersonaMap, kind: Kind) -> npt.NDArray[np.uint8]:
    if kind == "state":
        assert visit.studio.desk is not None  # noqa: S101 - or it is no kind of this visitor
        return states_of(drawn, visit.studio.desk)
    groups = drawn.groups()
    return groups.segments if kind == "segment" else groups.categories


def inside(
    places: npt.NDArray[np.uint16], corners: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which of (n, 2) places lie in an outline of (k, 2) corners, by the even-odd rule: (n,)."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.flatnonzero(((places >= low) & (places <= high)).all(axis=1))
    x, y = places[near].astype(np.float64).T
    odd = np.zeros(len(near), np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            odd ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    result = np.zeros(len(places), np.bool_)
    result[near[odd]] = True
    return result


def _personas(
    live: Live, drawn: PersonaMap, numbers: npt.NDArray[np.intp]
) -> Iterator[StoredPersona]:
    """The personas at these points, as the index has them now; those that are gone are missing."""
    for some in batches(numbers.tolist(), AT_ONCE):
        places = [PersonaMatch("", 0.0, drawn.point_id(one)) for one in some]
        found = live.index.explain(places)
        yield from (one.persona for one in found if one.persona is not None)


def _table(personas: Iterator[StoredPersona]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in personas:
        writer.writerow([formula_safe(cell) for cell in _cells(one)])
    return text.getvalue()


def _cells(one: StoredPersona) -> Sequence[str]:
    title, category = (str(one.fields.get(name) or "") for name in (ITEM_TITLE, CATEGORY))
    return one.item_id, title, category, one.persona_id, one.label, one.description
