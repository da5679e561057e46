"""The page of a reader: candidates before and after, and what made each place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fastapi import APIRouter, Response
from pydantic import ValidationError

from p4r_qdrant.encoder.user_vector import history_texts, user_vector
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.index.payload import ITEM_TITLE
from p4r_qdrant.records import (
    MAX_ID_LENGTH,
    Interaction,
    Parts,
    RankedItem,
    Ranking,
    WhyNot,
    check_id,
)
from p4r_qdrant.rerank.users import KnownUser, items_of, known_interaction
from p4r_qdrant.service import problems
from p4r_qdrant.service.live import Live
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.ranking import check_collaborative
from p4r_qdrant.service.recommendations import vector_of_user
from p4r_qdrant.service.request import FailedError
from p4r_qdrant.service.studio.visit import PREFIX, Known, StudioRoute, Visit
from p4r_qdrant.settings import RerankSettings

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

METHODS = {
    "recorded": "as the version records",
    "standard": "weighted sum of the three parts",
    "none": "personas alone",
    "rrf": "ranks of personas and generator",
}
WEIGHTS = ("personas", "collaborative", "generator")
FIELDS = ("user", "history", "person", "candidates", "method", *WEIGHTS, "why_not", "top")
SHOWN = 50
"""Items of the answer that are shown, and recommended where no candidates are given."""
TOP = 10
"""Among how many items one should be, where the form does not say."""
ADDED = 5
"""Known items that are tried as one more interaction of a reader."""
MOST = 10_000
"""Largest number of first items."""
SUGGESTED = 100
"""Stored users whose ids the form suggests to an admin."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What one part carried of a score. start, width: per cent of half the bar, from its middle."""

    name: str
    value: float
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Place:
    """An item of the answer.

    is_known: whether the index has it. moved: places up from the generator's; None without one.
    """

    item: RankedItem
    title: str
    is_known: bool
    moved: int | None
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of the reranker. why_not: about one item, if the form asks for it."""

    ranking: Ranking
    why_not: WhyNot | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """An item beside the last one of the first. bars: the difference in each part."""

    reasons: WhyNot
    item: Place
    threshold: Place | None
    bars: Sequence[Bar]


@router.get("/reader")
async def reader(visit: Known) -> Response:
    """The empty form."""
    return await _page(visit, {})


@router.post("/reader")
async def rank(visit: Known) -> Response:
    """The form, and the candidates in their order for this reader."""
    try:
        form = await visit.form()
    except ProblemError as error:
        if error.code != "old_form":
            raise
        return await _page(visit, visit.typed, problem=error)
    try:
        candidates = _candidates(form, visit.studio.settings.max_candidates)
        found = await _answer(visit, form, candidates)
        titles = await _titles(visit, found)
    except P4RError as error:
        return await _page(visit, form, problem=problems.of_ours(visit.request, error))
    except ProblemError as error:
        return await _page(visit, form, problem=error)
    places = _places(found.ranking.items, titles, bool(candidates))
    return await _page(visit, form, found, places, titles)


async def _page(
    visit: Visit,
    form: Mapping[str, str],
    found: Found | None = None,
    places: Sequence[Place] | None = None,
    titles: Mapping[str, str] = {},
    problem: ProblemError | None = None,
) -> Response:
    served = visit.studio.served
    user_ids: list[str] = []
    if visit.role == "admin":
        # Without the index there are no suggestions, but what was typed is still there.
        with suppress(P4RError), served.backend.in_use() as live:
            user_ids = await served.in_thread(
                lambda: list(islice(live.users.interactions.user_ids(), SUGGESTED))
            )
    because = visit.role == "admin" or visit.studio.settings.tell_because
    return visit.page(
        "reader.html",
        problem.status if problem else 200,
        form={name: form.get(name, "") for name in FIELDS},
        methods=METHODS,
        user_ids=user_ids,
        places=places,
        personalized=found is not None and found.ranking.personalized,
        why_not=_compared(found.why_not, titles) if found and found.why_not else None,
        problem=str(problem) if problem else "",
        tells_because=because or not form.get("user"),
        top=_top(form) if found else TOP,
    )


async def _answer(
    visit: Visit, form: Mapping[str, str], candidates: Sequence[tuple[str, float | None]]
) -> Found:
    """The answer of the reranker within the deadline. Raises InputError, ProblemError."""
    served, options, top = visit.studio.served, _options(form), _top(form)
    item_id = form.get("why_not", "")
    if item_id:
        _check_id(item_id)
    try:
        async with asyncio.timeout(visit.studio.settings.deadline_ms / 1000):
            with served.backend.in_use() as live:
                check_collaborative(options, live)
                user = await _user(visit, live, form)

                def work() -> Found:
                    reranker = live.reranker
                    if not candidates:
                        ranking = reranker.recommend(user, SHOWN, rerank=options)
                    else:
                        ranking = reranker.rerank(
                            user, candidates, SHOWN, explain=SHOWN, rerank=options
                        )
                    if not item_id:
                        return Found(ranking)
                    reasons = reranker.why_not(
                        user, item_id, candidates or None, top, additions=ADDED, rerank=options
                    )
                    return Found(ranking, reasons)

                return await served.ranker.threads.on_thread(work)
    except (TimeoutError, FailedError):
        raise problems.unavailable("the ranking did not end in time; try again") from None


def _top(form: Mapping[str, str]) -> int:
    given = form.get("top") or str(TOP)
    is_number = given.isascii() and given.isdecimal() and len(given) <= len(str(MOST))
    if not (is_number and 1 <= int(given) <= MOST):
        raise InputError(f"the number of first items is a whole number from 1 to {MOST}")
    return int(given)


async def _user(visit: Visit, live: Live, form: Mapping[str, str]) -> KnownUser:
    given = [name for name in ("user", "history", "person") if form.get(name)]
    if len(given) != 1:
        raise InputError("fill in one of three: a stored user, a history, or a described person")
    served = visit.studio.served
    if user_id := form.get("user"):
        _check_id(user_id)
        vector = await vector_of_user(user_id, served, live)
        items = await served.in_thread(lambda: live.users.items(user_id))
        return KnownUser(vector, items)
    history = await served.in_thread(
        lambda: _history(live, form, visit.studio.settings.max_history)
    )
    pairs = history_texts(history, live.history.length)
    rows = await served.encode(live, [text for _, text in pairs], of_users=True)
    made = user_vector([one for one, _ in pairs], rows, live.history.decay)
    return KnownUser(made, items_of(history))


def _history(live: Live, form: Mapping[str, str], most: int) -> list[Interaction]:
    """What was typed, as interactions: items of the index with their texts, else words."""
    if person := form.get("person"):
        return [Interaction("what you wrote", 0, summary=person)]
    lines = list(filter(None, map(str.strip, form["history"].splitlines())))
    if len(lines) > most:
        raise InputError(f"a history has {most} lines at most (P4R_SERVICE__MAX_HISTORY)")
    history = []
    for number, line in enumerate(lines):
        known = (
            known_interaction(live.index, line, len(lines) - number)
            if len(line) <= MAX_ID_LENGTH
            else None
        )
        if known is None or not (known.title or known.summary):
            item_id = line if known else f"line {number + 1}"
            known = Interaction(item_id, len(lines) - number, line)
        history.append(known)
    return history


def _candidates(form: Mapping[str, str], most: int) -> list[tuple[str, float | None]]:
    """One a line: an item id, and behind a tab the generator's score if there is one."""
    found: list[tuple[str, float | None]] = []
    for number, line in enumerate(form.get("candidates", "").splitlines(), start=1):
        item_id, _, score = line.strip().partition("\t")
        if not item_id:
            continue
        _check_id(item_id)
        try:
            found.append((item_id, float(score) if score.strip() else None))
        except ValueError:
            raise InputError(f"candidates, line {number}: {score[:40]!r} is no number") from None
    if len(found) > most:
        raise InputError(f"at most {most} candidates (P4R_SERVICE__MAX_CANDIDATES)")
    return found


def _check_id(value: str) -> None:
    try:
        check_id(value)
    except ValueError as error:
        raise InputError(str(error)) from None


def _options(form: Mapping[str, str]) -> RerankSettings:
    """How the form wants candidates scored. A weight asks for the weighted sum."""
    weights = {
        f"{one.removesuffix('s') if one == 'personas' else one}_weight": form[one]
        for one in WEIGHTS
        if form.get(one)
    }
    method = form.get("method") or "recorded"
    if weights and method == "recorded":
        method = "standard"
    if method not in METHODS:
        raise InputError("choose one of the methods of the list")
    given: dict[str, Any] = {"fusion": method, **weights}
    try:
        return RerankSettings(**given)
    except ValidationError:
        raise InputError("a weight is a number from 0 to 1000") from None


async def _titles(visit: Visit, found: Found) -> dict[str, str]:
    """Titles of the items that carry no persona."""
    items = [*found.ranking.items]
    if found.why_not is not None:
        items += filter(None, (found.why_not.item, found.why_not.threshold))
    bare = [one.item_id for one in items if one.persona is None]
    if not bare:
        return {}
    served = visit.studio.served

    def work() -> dict[str, str]:
        found = {one: live.index.get(one) for one in bare}
        return {
            item_id: str(personas[0].fields.get(ITEM_TITLE) or "")
            for item_id, personas in found.items()
            if personas
        }

    with served.backend.in_use() as live:
        return await served.in_thread(work)


def _places(
    items: Sequence[RankedItem], titles: Mapping[str, str], has_generator: bool
) -> list[Place]:
    parts = [_parts(one.parts, one.persona_score) for one in items]
    largest = max((abs(value) for own in parts for value in own.values()), default=0.0)
    places = []
    for item, own in zip(items, parts, strict=True):
        title = titles.get(item.item_id, "")
        if item.persona is not None:
            title = str(item.persona.fields.get(ITEM_TITLE) or "")
        moved = item.generator_rank - item.rank if has_generator else None
        is_known = item.persona is not None or item.item_id in titles
        places.append(Place(item, title or item.item_id, is_known, moved, _bars(own, largest)))
    return places


def _compared(reasons: WhyNot, titles: Mapping[str, str]) -> Compared:
    items = [reasons.item, *filter(None, [reasons.threshold])]
    own, *other = _places(items, titles, has_generator=False)
    parts = _parts(reasons.differences, None)
    largest = max(map(abs, parts.values()), default=0.0)
    return Compared(reasons, own, other[0] if other else None, _bars(parts, largest))


def _bars(parts: Mapping[str, float], largest: float) -> list[Bar]:
    scale = 100 / (largest or 1.0)
    return [
        Bar(name, value, scale * min(value, 0.0), scale * abs(value))
        for name, value in parts.items()
    ]


def _parts(parts: Parts | None, persona_score: float | None) -> dict[str, float]:
    """What each part carried of a score; without parts, the persona score alone."""
    if parts is not None:
        found = {one: getattr(parts, one) for one in WEIGHTS}
    else:
        found = {"personas": persona_score}
    return {name: float(value) for name, value in found.items() if value is not None}
