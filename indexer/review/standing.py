"""What the decisions on an item make of its personas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard, get_args

from indexer.artifacts.outdated import persona_digest
from indexer.review.decisions import PINS, Decision, Texts, valid
from p4r_qdrant.records import ItemPersonas, Persona, State

STATES: tuple[State, ...] = get_args(State)
APPROVED: tuple[State, ...] = ("edited", "approved", "locked")

OF_ACTION: Mapping[str, State] = {
    "approve": "approved",
    "edit": "edited",
    "split": "edited",
    "lock": "locked",
    "reject": "rejected",
    "ask": "asked",
}

Decided = Mapping[str, Sequence[Decision]]
"""The decisions on an item, by persona id."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A persona with what was decided about it.

    persona: as it is served, with the texts of a reviewer if they are pinned (edited, split or
    locked), and the evidence that a reviewer assigned to it.
    rows: all decisions on it, undone ones too. compared: what it is compared with: the texts last
    decided on, if reasoning has changed them since ("changed"), or what reasoning writes now, where
    others are pinned. position: its place in personas.jsonl; None if reasoning no longer makes it.
    is_pinned: its texts are a reviewer's.
    """

    persona: Persona
    state: State
    rows: Sequence[Decision] = ()
    compared: Texts | None = None
    position: int | None = None
    is_pinned: bool = False

    @property
    def digest(self) -> str:
        """`persona_digest` of what is served."""
        return persona_digest(self.persona)


def version(one: Reviewed) -> str:
    """What a decision on a persona has to name, so that none is about something unseen."""
    evidence = hashlib.blake2b("\0".join(one.persona.evidence).encode(), digest_size=4).hexdigest()
    return f"{len(one.rows)}.{evidence}-{one.digest}"


def is_seen(one: Reviewed, seen: str, *, with_evidence: bool) -> bool:
    """Whether `seen` names the persona as it is; of its evidence only where that matters."""
    own = version(one)
    return seen == own if with_evidence else _without_evidence(seen) == _without_evidence(own)


def rows_seen(seen: str) -> str:
    """The number of decisions that somebody has seen."""
    return seen.partition("-")[0].partition(".")[0]


def _without_evidence(seen: str) -> tuple[str, str]:
    return rows_seen(seen), seen.partition("-")[2]


def verdict(rows: Sequence[Decision]) -> Decision | None:
    """The decision that says what a persona is: the last valid one, and "ask" only before others.

    Who asks the LLM again leaves approvals, rejections and pinned texts as they are.
    """
    stack = valid(rows)
    decided = [one for one in stack if one.action != "ask"] or stack
    return decided[-1] if decided else None


def is_rejection(one: Decision | None) -> TypeGuard[Decision]:
    """Whether a verdict rejects its persona."""
    return one is not None and one.action == "reject"


def asked(rows: Iterable[Decision]) -> list[Decision]:
    """The valid "ask" decisions among those on an item, in their order.

    They stay valid when their personas are gone: the question that the LLM is asked holds them.
    """
    rows = list(rows)
    by_persona: dict[str, list[Decision]] = {}
    for one in rows:
        by_persona.setdefault(one.persona_id, []).append(one)
    kept = {id(one) for own in by_persona.values() for one in valid(own)}
    return [one for one in rows if one.action == "ask" and id(one) in kept]


def reviewed(item: ItemPersonas, decided: Decided) -> list[Reviewed]:
    """The personas of an item, in their order; then pinned ones that reasoning no longer makes.

    Decisions are about texts. A text that is rejected stays rejected under any id in its item; a
    persona whose text is no longer the approved or rejected one is "changed".
    """
    if not decided:
        return [Reviewed(one, "pending", position=at) for at, one in enumerate(item.personas)]
    rejected = {last.after for rows in decided.values() if is_rejection(last := verdict(rows))}
    found = [
        _reviewed(one, decided.get(one.persona_id, ()), rejected, at)
        for at, one in enumerate(item.personas)
    ]
    present = {one.persona_id for one in item.personas}
    for persona_id, rows in decided.items():
        pinned = _pinned(valid(rows))
        if persona_id not in present and pinned is not None:
            persona = Persona(persona_id=persona_id, **pinned.model_dump())
            found.append(_reviewed(persona, rows, rejected, None))
    return found


def gone(item: ItemPersonas | None, decided: Decided) -> int:
    """The number of decisions on personas that the item no longer has."""
    kept = {one.persona.persona_id for one in reviewed(item, decided)} if item else set()
    return sum(len(rows) for persona_id, rows in decided.items() if persona_id not in kept)


def _pinned(stack: Sequence[Decision]) -> Texts | None:
    return next((one.texts for one in reversed(stack) if one.action in PINS and one.texts), None)


def _reviewed(
    made: Persona, rows: Sequence[Decision], rejected: set[str], position: int | None
) -> Reviewed:
    """made: what reasoning wrote; without a position, what a reviewer pinned."""
    pinned = _pinned(valid(rows))
    persona = pinned.onto(made) if pinned is not None else made
    assigned = next((one.evidence for one in reversed(valid(rows)) if one.evidence), None)
    if assigned is not None:
        persona = persona.model_copy(update={"evidence": list(assigned)})
    digest = persona_digest(persona)
    last, stack = verdict(rows), valid(rows)
    state: State = "pending"
    if last is not None:
        state = OF_ACTION[last.action] if last.after == digest else "changed"
    if state == "changed" and stack[-1].action == "ask" and stack[-1].after == digest:
        state = "asked"
    if digest in rejected:
        state = "rejected"
    compared = None
    if state == "changed" and last is not None:
        compared = last.texts
    elif pinned is not None and position is not None:
        known = {one for decision in rows for one in (decision.before, decision.after)}
        compared = Texts.of(made) if persona_digest(made) not in known else None
    return Reviewed(persona, state, rows, compared, position, pinned is not None)
