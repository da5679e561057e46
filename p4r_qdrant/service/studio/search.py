"""The page that finds the items whose personas are nearest to a person described in words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.filters import declared
from p4r_qdrant.index.payload import CATEGORY
from p4r_qdrant.records import PersonaMatch
from p4r_qdrant.service import problems
from p4r_qdrant.service.request import FailedError
from p4r_qdrant.service.studio.catalogue import category_forms
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute, Visit

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

FOUND = 20
"""Items of a search."""

IS, LEAST, MOST = "is.", "from.", "to."
"""Begin the names of what the address says of a declared field."""


@router.get("/search")
async def search(visit: Known, person: Annotated[str, Query(max_length=1000)] = "") -> Response:
    """The items nearest to a person, among those that match the filters of the address."""
    with visit.studio.served.backend.in_use() as live:
        fields = declared(live.index.engine.fields)
    given = {name: text.strip() for name, text in visit.request.query_params.items()}
    wanted = _filter(given, fields)
    status, problem, found = 200, "", None
    if person.strip():
        try:
            found = await _nearest(visit, person, wanted)
        except InputError as error:
            status, problem = 422, str(error)
    return visit.page(
        "search.html",
        status,
        person=person,
        found=found,
        problem=problem,
        fields=fields,
        given=given,
        is_filtered=bool(wanted),
    )


async def _nearest(visit: Visit, person: str, wanted: Mapping[str, Any]) -> list[PersonaMatch]:
    """The personas nearest to a described person. Raises InputError, ProblemError."""
    served = visit.studio.served
    try:
        async with asyncio.timeout(visit.studio.settings.deadline_ms / 1000):
            with served.backend.in_use() as live:
                [vector] = await served.encode(live, [person], of_users=True)
                return await served.ranker.threads.on_thread(
                    lambda: live.index.nearest_items(vector, FOUND, wanted)
                )
    except (TimeoutError, FailedError):
        raise problems.unavailable("the search did not end in time; try again") from None


def _filter(given: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, Any]:
    """What the address asks for, in the notation of `index.filters`, not checked yet."""
    bounds: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name, text in given.items():
        for prefix, bound in ((LEAST, "gte"), (MOST, "lte")):
            if name.startswith(prefix) and text:
                bounds.setdefault(name.removeprefix(prefix), {})[bound] = _number(text)
        if name.startswith(IS) and text:
            field = name.removeprefix(IS)
            is_truth = fields.get(field) == "bool" and text in ("yes", "no")
            values[field] = text == "yes" if is_truth else text
    if forms := category_forms(given.get(CATEGORY, "")):
        values[CATEGORY] = forms
    # A field with both, which no form sends, is refused by the filter.
    return values | bounds | {one: {"is": values[one]} for one in values.keys() & bounds.keys()}


def _number(text: str) -> float | str:
    """The number; what is none stays text, which the filter refuses with its field."""
    with suppress(ValueError):
        return float(text.replace(",", "."))
    return text
