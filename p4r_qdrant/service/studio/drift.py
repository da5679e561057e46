"""The page *Drift*: how catalogue, categories and segments changed from publish to publish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Response

from p4r_qdrant.artifact_names import HISTORY
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.history import PublishRecord, all_publishes
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

MOST = 24
"""Charts of a group: the largest segments and categories."""
HEIGHT = 40.0
"""Of a chart, in its own units."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One small multiple. values: one for each publish; None: not known."""

    name: str
    values: Sequence[int | None]

    @property
    def heights(self) -> list[float | None]:
        """The height of each column; None where the value is not known."""
        most = max(self._known, default=0) or 1
        return [None if one is None else HEIGHT * one / most for one in self.values]

    @property
    def last(self) -> int:
        """The newest value."""
        return self._known[-1] if self._known else 0

    @property
    def change(self) -> int:
        """The newest value minus the one before."""
        return self._known[-1] - self._known[-2] if len(self._known) > 1 else 0

    @property
    def said(self) -> str:
        """The values for those who do not see the chart."""
        return ", ".join("not known" if one is None else f"{one:,}" for one in self.values)

    @property
    def _known(self) -> list[int]:
        return [one for one in self.values if one is not None]


@router.get("/drift")
async def drift(visit: Known) -> Response:
    """The charts of all recorded publishes."""
    folder, problem = visit.studio.artifacts, ""
    records: list[PublishRecord] = []
    if folder is not None:
        try:
            records = await visit.studio.served.in_thread(lambda: all_publishes(folder / HISTORY))
        except InputError:
            problem = "The history of the artifact folder cannot be read; try again."
    return visit.page(
        "drift.html",
        problem=problem,
        has_folder=folder is not None,
        times=[one.at for one in records],
        groups=charts(records) if records else [],
    )


def charts(records: Sequence[PublishRecord]) -> list[tuple[str, list[Chart]]]:
    """The charts, by the title of their group."""
    names = {one.id: one.name for record in records for one in record.segments}  # the newest name
    sizes = [{one.id: one.personas for one in record.segments} for record in records]
    segments = [
        Chart(names[one], [own.get(one, 0) if own else None for own in sizes])
        for one in _largest(sizes)
    ]
    mixes = [dict(record.categories) for record in records]
    categories = [
        Chart(one or "without a category", [own.get(one, 0) for own in mixes])
        for one in _largest(mixes)
    ]
    whole = [
        Chart("items", [one.items for one in records]),
        Chart("personas", [one.personas for one in records]),
    ]
    return [
        ("Catalogue", whole),
        ("Personas by segment", segments),
        ("Personas by category", categories),
    ]


def _largest(counts: Iterable[dict[str, int]]) -> list[str]:
    """The keys with the largest numbers, by the newest number first."""
    highest: dict[str, int] = {}
    newest: dict[str, int] = {}
    for own in counts:
        highest |= {one: max(number, highest.get(one, 0)) for one, number in own.items()}
        newest = own or newest
    largest = sorted(highest, key=lambda one: (-highest[one], one))[:MOST]
    return sorted(largest, key=lambda one: (-newest.get(one, 0), one))
