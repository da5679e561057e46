"""The pages of the catalogue: items page by page, one item."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from p4r_qdrant.artifact_names import HISTORY, MAPS
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.history import ItemRecord, item_history
from p4r_qdrant.index.payload import (
    CATEGORY,
    DOMAIN,
    EVIDENCE_COUNT,
    EXTRACTIVE,
    ITEM_ID,
    ITEM_TITLE,
    SUMMARY,
    slug,
)
from p4r_qdrant.index.segments import from_text
from p4r_qdrant.index.wins import Wins, Won
from p4r_qdrant.records import MAX_ID_LENGTH, PersonaMatch, State, StoredPersona, check_id
from p4r_qdrant.service import problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.studio.desk import Desk, PersonaReview, QueueRow
from p4r_qdrant.service.studio.evidence import Evidence, Quote
from p4r_qdrant.service.studio.support import Support, supports
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

PAGE = 24
"""Items of a page."""

COMPARED = 8
"""Personas of an item that are compared with those of other items."""

CHUNK, SCANNED = 500, 5000
"""Items of the queue that are looked up together, and for one page at most."""

STATES = ("open", *get_args(State))

NEAREST = 3
"""Items that are shown as nearest to a persona."""

Text = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item in a list. queued: what waits to be reviewed; None if that was not asked for."""

    item_id: str
    title: str
    category: str
    personas: Sequence[StoredPersona]
    queued: QueueRow | None = None


@dataclass(frozen=True, slots=True)
class PersonaCard:
    """A persona on its item's page. nearest: the items nearest to it; None: not compared.

    won: how often it wins; None: not counted. review: flags and decisions; only reviewers get them.
    """

    persona: StoredPersona
    evidence_count: int
    nearest: Sequence[PersonaMatch] | None
    quotes: Sequence[Quote]
    support: Support
    won: Won | None
    review: PersonaReview | None


class Wish(BaseModel):
    """What a visitor asks of the catalogue. state, flag, risk: of reviewers alone."""

    model_config = ConfigDict(str_strip_whitespace=True)

    item: Text = ""
    words: Text = ""
    category: Text = ""
    domain: Text = ""
    state: Text = ""
    flag: Text = ""
    risk: Text = ""
    start: Text = ""

    @property
    def filter(self) -> dict[str, Any]:
        """As `PersonaIndex.page` takes it."""
        given = {
            ITEM_ID: self.item,
            CATEGORY: category_forms(self.category),
            DOMAIN: self.domain,
        }
        return {name: value for name, value in given.items() if value}


def category_forms(category: str) -> list[str]:
    """What a category that people write may be stored as; none for no category."""
    return sorted({category, slug(category) or category}) if category else []


@router.get("")
async def catalogue(visit: Known, wish: Annotated[Wish, Query()]) -> Response:
    """Items page by page, read from Qdrant; reviewers also get them by state, flag and risk."""
    desk = visit.studio.desk if visit.may_review else None
    given = wish.model_dump(exclude={"start"})
    shown: dict[str, Any] = {"given": given, "states": STATES if desk is not None else None}
    served = visit.studio.served

    def work() -> tuple[list[ItemRow], str | None, int]:
        if desk is not None and (wish.state or wish.flag or wish.risk):
            rows, place = _by_risk(live, desk, wish)
        else:
            page = live.index.page(PAGE, wish.start or None, filter=wish.filter, words=wish.words)
            rows, place = [_row(one) for one in page.items], page.next
        return rows, place, sum(_waits(live, desk, one.item_id, one.personas) for one in rows)

    with served.backend.in_use() as live:
        try:
            rows, place, waiting = await served.in_thread(work)
        except InputError as error:
            return visit.page(
                "catalogue.html",
                422,
                rows=[],
                problem=str(error),
                following=None,
                waiting=0,
                **shown,
            )
    following = visit.link("", **given, start=place) if place else None
    return visit.page(
        "catalogue.html", rows=rows, problem="", following=following, waiting=waiting, **shown
    )


def _waits(live: Live, desk: Desk | None, item_id: str, held: Sequence[StoredPersona]) -> bool:
    """Whether the artifact folder has other texts of an item than the index."""
    return desk is not None and desk.waits_for_publish(item_id, held, live.index.metadata)


def _by_risk(live: Live, desk: Desk, wish: Wish) -> tuple[list[ItemRow], str | None]:
    """Items of the index in the order of the queue, and where the next page starts.

    A page that finds nothing in `SCANNED` items of the queue ends early. Raises InputError.
    """
    start = wish.start or "0"
    if not start.isdecimal() or len(start) > 9:
        raise InputError("the page begins at something that is no place; open the first one")
    place, rows = int(start), list[ItemRow]()
    for _ in range(SCANNED // CHUNK):
        queue = desk.queue(place, CHUNK, wish.state, wish.flag)
        ids = [one.item_id for one in queue.rows if wish.item in ("", one.item_id)]
        found = {}
        if ids:
            filter_ = {**wish.filter, ITEM_ID: ids}
            page = live.index.page(CHUNK, filter=filter_, words=wish.words)
            found = {own[0].item_id: own for own in page.items}
        for queued in queue.rows:
            place += 1
            if queued.item_id in found:
                rows.append(_row(found[queued.item_id], queued))
            if len(rows) == PAGE:
                return rows, str(place) if place < queue.total else None
        if queue.following is None:
            return rows, None
    return rows, str(place)


@router.get("/item")
async def item(
    visit: Known,
    id: Annotated[str, Query(max_length=MAX_ID_LENGTH)],  # noqa: A002
) -> Response:
    """The personas of an item side by side."""
    try:
        check_id(id)
    except ValueError as error:
        raise problems.ProblemError(422, "invalid", str(error)) from None
    served = visit.studio.served
    evidence = visit.studio.evidence if visit.may_review else None
    desk = visit.studio.desk if visit.may_review else None
    artifacts = visit.studio.artifacts
    history: Sequence[ItemRecord] = ()
    with served.backend.in_use() as live:
        wins, asked = _wins(artifacts, live)
        cards = await served.in_thread(lambda: _cards(live, id, evidence, wins, desk))
        held = [one.persona for one in cards]
        waits = await served.in_thread(lambda: _waits(live, desk, id, held))
        segments = from_text(live.index.metadata.segments)
    if artifacts is not None:
        with suppress(InputError):  # the page of the drift says so
            history = await served.in_thread(lambda: item_history(artifacts / HISTORY, id))
    if not cards:
        sorry = f"the index has no item {id!r}"
        if waits:
            sorry += "; the artifact folder has it, and p4r publish --artifacts DIR publishes it"
        raise problems.ProblemError(404, "unknown_item", sorry)
    fields = cards[0].persona.fields
    own = {
        name: value
        for name, value in fields.items()
        if name not in (SUMMARY, EXTRACTIVE, EVIDENCE_COUNT)
    }
    return visit.page(
        "item.html",
        item_id=id,
        title=_text(fields.get(ITEM_TITLE)) or id,
        summary=_text(fields.get(SUMMARY)),
        fields=own,
        cards=cards,
        has_evidence=evidence is not None,
        can_review=visit.studio.desk is not None,
        waits=waits,
        asked=asked,
        segments=segments,
        history=history,
        most=max((one.personas for one in history), default=1),
    )


def _wins(artifacts: Path | None, live: Live) -> tuple[Wins | None, int]:
    """How often the personas of the live version win, and among how many users."""
    name, _, users = live.index.metadata.wins.partition(" ")
    if artifacts is None or not users.isdecimal():
        return None, 0
    with suppress(InputError):  # a user was erased since, or the folder is another one
        return Wins(artifacts / MAPS, name), int(users)
    return None, 0


def _cards(
    live: Live, item_id: str, evidence: Evidence | None, wins: Wins | None, desk: Desk | None
) -> list[PersonaCard]:
    personas = live.index.get(item_id)
    found = desk.item(item_id) if desk is not None and personas else None
    reviews = {one.persona_id: one for one in found.personas} if found is not None else {}
    quotes = evidence(item_id) if evidence is not None and personas else {}
    places = [
        PersonaMatch(item_id, 0.0, live.index.engine.point_id(item_id, number))
        for number in range(min(COMPARED, len(personas)))
    ]
    vectors = {
        one.persona.persona_id: one.vector
        for one in live.index.explain(places, with_vectors=True)
        if one.persona is not None
    }
    texts = [(one.name, one.description, one.preference_rationale) for one in personas]
    cards = []
    for number, (one, support) in enumerate(zip(personas, supports(texts), strict=True)):
        vector = vectors.get(one.persona_id)
        nearest = (
            None if vector is None else live.index.nearest_items(vector, NEAREST, exclude=[item_id])
        )
        count = int(one.fields.get(EVIDENCE_COUNT) or 0)
        won = (
            wins.of(live.index.engine.point_id(item_id, number), one) if wins is not None else None
        )
        own = quotes.get(one.persona_id, ())
        review = reviews.get(one.persona_id)
        cards.append(PersonaCard(one, count, nearest, own, support, won, review))
    return cards


def _row(personas: Sequence[StoredPersona], queued: QueueRow | None = None) -> ItemRow:
    first = personas[0]
    return ItemRow(
        first.item_id,
        _text(first.fields.get(ITEM_TITLE)) or first.item_id,
        _text(first.fields.get(CATEGORY)),
        personas,
        queued,
    )


def _text(value: Any) -> str:
    """A field of an item as text, whatever it was stored as."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
