"""The pages for reviewers: the queue, an item in review, and decisions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Annotated, cast, get_args

from fastapi import APIRouter, Query, Response

from p4r_qdrant.errors import P4RError
from p4r_qdrant.records import MAX_ID_LENGTH, Action, State
from p4r_qdrant.service import problems
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.studio.desk import (
    MAX_TEXT,
    ConflictError,
    Desk,
    Order,
    PersonaReview,
    PersonaTexts,
    SplitOff,
)
from p4r_qdrant.service.studio.evidence import Quote
from p4r_qdrant.service.studio.sessions import Session
from p4r_qdrant.service.studio.support import Support, supports
from p4r_qdrant.service.studio.visit import PREFIX, Reviewing, StudioRoute, Visit
from p4r_qdrant.users.records import ItemWork

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)

PAGE = 50
"""Items of a page of the queue."""

MOST_COMPARED = 2000
"""Words of a text up to which its changes are marked."""

MAX_NAME = 100
"""Characters of a reviewer's name."""

TEXTS = ("name", "description", "preference_rationale")
OTHER, TO_OTHER = "other_", "to_other_"
"""Begin the names of the fields that are about the second half of a split."""
MOST_REVIEWS = 200
"""Reviews of a persona that a form can assign; the others stay with the first half."""
STATES = ("open", *get_args(State))

Field = Annotated[str, Query(max_length=100)]
ItemId = Annotated[str, Query(max_length=MAX_ID_LENGTH)]
Change = tuple[str, str]
"""(what became of it: "equal", "delete" or "insert"; words)."""


@dataclass(frozen=True, slots=True)
class Card:
    """A persona on the page. changes: of each text, where others are known.

    typed: what its edit form holds; None: its own texts.
    """

    persona: PersonaReview
    quotes: Sequence[Quote]
    support: Support
    changes: Mapping[str, Sequence[Change]]
    typed: Mapping[str, str] | None

    @property
    def fields(self) -> Mapping[str, str]:
        """The texts of the edit form; of those that are too long for an edit, the beginning."""
        own = {name: text[:MAX_TEXT] for name, text in asdict(self.persona.texts).items()}
        return own | {name: self.typed[name] for name in own if self.typed and name in self.typed}

    @property
    def other_fields(self) -> Mapping[str, str]:
        """The texts of the second half in the form of a split."""
        typed = self.typed or {}
        return {name: typed.get(f"{OTHER}{name}", "") for name in TEXTS}

    @property
    def reviews(self) -> Sequence[tuple[int, Quote | None, bool]]:
        """Of each review that can be assigned: number, what it says, and whether it is chosen."""
        quotes = {one.number: one for one in self.quotes}
        count = min(self.persona.evidence_count, MOST_REVIEWS)
        typed = self.typed or {}
        return [(n, quotes.get(n), f"{TO_OTHER}{n}" in typed) for n in range(1, count + 1)]

    @property
    def is_cut(self) -> bool:
        """Whether a text of the persona is too long for an edit."""
        return any(len(text) > MAX_TEXT for text in asdict(self.persona.texts).values())

    @property
    def remark(self) -> str:
        """What the remark holds."""
        return self.typed.get("remark", "") if self.typed else ""

    @property
    def sent(self) -> str:
        """The decision that was sent and could not be kept."""
        return self.typed.get("action", "") if self.typed else ""


@router.get("/review")
async def queue(
    visit: Reviewing, state: Field = "open", flag: Field = "", start: int = Query(0, ge=0)
) -> Response:
    """Items that wait for a decision, the riskiest first."""
    desk = visit.studio.desk
    if desk is None:
        return visit.page("queue.html", page=None)
    given = "" if state == "all" else state
    served = visit.studio.served
    page = await served.in_thread(lambda: desk.queue(start, PAGE, given, flag))
    counts, notes = await served.in_thread(lambda: (desk.counts(), desk.notes()))
    following = page.following
    return visit.page(
        "queue.html",
        page=page,
        counts=counts,
        notes=notes,
        state=state,
        flag=flag,
        states=("open", "all", *STATES[1:]),
        following=visit.link("/review", state=state, flag=flag, start=following)
        if following
        else None,
    )


@router.get("/review/item")
async def item(visit: Reviewing, id: ItemId) -> Response:  # noqa: A002
    """An item in review."""
    return await _page(visit, id)


@router.post("/review/name")
async def name(visit: Reviewing) -> Response:
    """Keep the visitor's name, which is recorded with decisions, in the session."""
    form = await visit.form()
    given = form.get("by", "")
    if not given or len(given) > MAX_NAME or not given.isprintable():
        raise ProblemError(422, "invalid", f"a name is one line of 1 to {MAX_NAME} characters")
    _named(visit, given)
    return visit.redirect(visit.link("/review/item", id=form.get("id", "")))


@router.post("/review/item")
async def decide(visit: Reviewing, id: ItemId) -> Response:  # noqa: A002
    """Keep a decision; what was typed stays on the page if that is not possible."""
    try:
        form = await visit.form()
        await _decide(visit, id, form)
    except ProblemError as error:
        if error.code != "old_form":
            raise
        return await _page(visit, id, error, visit.typed)
    except ConflictError as error:
        return await _page(visit, id, ProblemError(409, "conflict", str(error)), form)
    except P4RError as error:
        return await _page(visit, id, problems.of_ours(visit.request, error), form)
    return visit.redirect(visit.link("/review/item", id=id))


def _named(visit: Visit, name: str) -> None:
    """Keep a reviewer's name in the session."""
    assert visit.session is not None  # noqa: S101 - the form belongs to it
    visit.begin(Session(visit.session.id, visit.session.role, name))


async def _decide(visit: Visit, item_id: str, form: Mapping[str, str]) -> None:
    """Keep the decision of a form. Raises P4RError, ProblemError."""
    desk, served = _desk(visit), visit.studio.served
    action, persona_id = form.get("action", ""), form.get("persona", "")
    if action != "withdraw":
        if action not in get_args(Action):
            raise ProblemError(422, "invalid", "choose one of the buttons of the page")
        texts, other = None, None
        if action in ("edit", "split"):
            texts = PersonaTexts(*(form.get(one, "") for one in TEXTS))
        if action == "split":
            other = _split_off(form)
        order = Order(
            form.get("by", ""),
            cast("Action", action),
            item_id,
            persona_id,
            form.get("seen", ""),
            texts,
            form.get("remark", ""),
            other,
        )
        await served.in_thread(lambda: desk.decide(order))
        if action == "ask":
            await _queue(visit, order)
        if not visit.name:  # the form is older than this session
            _named(visit, order.by)
    if action == "withdraw" or (action == "reject" and form.get("now")):
        with served.backend.in_use() as live:
            await served.in_thread(lambda: live.writer.drop_personas([item_id], desk.is_rejected))


def _split_off(form: Mapping[str, str]) -> SplitOff:
    numbers = (name.removeprefix(TO_OTHER) for name in form if name.startswith(TO_OTHER))
    return SplitOff(
        PersonaTexts(*(form.get(f"{OTHER}{one}", "") for one in TEXTS)),
        frozenset(int(one) for one in numbers if one.isdecimal() and len(one) < 5),
    )


async def _queue(visit: Visit, order: Order) -> None:
    """Leave the item to the worker. Raises ProblemError if that fails; the remark is kept."""
    job = ItemWork(item_id=order.item_id).job()
    own = replace(job, key=f"{job.key} {order.persona_id} {order.seen}")  # one for each remark
    served = visit.studio.served
    try:
        with served.backend.in_use() as live:
            await served.in_thread(lambda: live.users.jobs.add(own))
    except P4RError as error:
        raise ProblemError(
            503,
            "not_queued",
            "the remark is kept, but the worker does not know of it: p4r reason asks the LLM with "
            f"it ({error})",
        ) from None


def _desk(visit: Visit) -> Desk:
    desk = visit.studio.desk
    if desk is None:
        raise ProblemError(404, "no_artifacts", "the studio runs without an artifact folder")
    return desk


async def _page(
    visit: Visit,
    item_id: str,
    problem: ProblemError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    desk, served, evidence = _desk(visit), visit.studio.served, visit.studio.evidence
    found = await served.in_thread(lambda: desk.item(item_id))
    if found is None:
        raise ProblemError(404, "unknown_item", f"the artifact folder has no item {item_id!r}")
    quotes = await served.in_thread(lambda: evidence(item_id)) if evidence is not None else {}
    typed = typed or {}
    texts = [astuple(one.texts) for one in found.personas]
    cards = [
        Card(
            one,
            quotes.get(one.persona_id, ()),
            support,
            _changes(one),
            typed if typed.get("persona") == one.persona_id else None,
        )
        for one, support in zip(found.personas, supports(texts), strict=True)
    ]
    return visit.page(
        "review.html",
        problem.status if problem else 200,
        item=found,
        cards=cards,
        by=visit.name,
        problem=str(problem) if problem else "",
    )


def _changes(one: PersonaReview) -> Mapping[str, Sequence[Change]]:
    """The changes of each text, from the older to the newer one."""
    if one.compared is None:
        return {}
    other, own = asdict(one.compared), asdict(one.texts)
    before, after = (own, other) if one.is_pinned else (other, own)
    return {
        name: changes(before[name], after[name]) for name in TEXTS if before[name] != after[name]
    }


def changes(before: str, after: str) -> list[Change]:
    """The words of both texts, marked as kept, deleted or inserted; a long text is one word."""
    old, new = before.split(), after.split()
    if max(len(old), len(new)) > MOST_COMPARED:
        return [("delete", before), ("insert", after)]
    found: list[Change] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, start, end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            found.append(("equal", " ".join(old[start:end])))
            continue
        if end > start:
            found.append(("delete", " ".join(old[start:end])))
        if new_end > new_start:
            found.append(("insert", " ".join(new[new_start:new_end])))
    return found
