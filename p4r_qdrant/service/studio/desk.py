"""What the studio asks for to review personas; the caller of the service keeps the decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.records import Action, State, StoredPersona

MAX_TEXT = 5000
"""Characters of a text that a reviewer writes."""

OPEN: tuple[State, ...] = ("changed", "pending")
"""States in which a persona waits for a decision."""


class ConflictError(InputError):
    """Somebody else has decided meanwhile, or the persona has changed."""


@dataclass(frozen=True, slots=True)
class PersonaTexts:
    """The texts of a persona."""

    name: str
    description: str
    preference_rationale: str


@dataclass(frozen=True, slots=True)
class SplitOff:
    """The second half of a persona that is split: its texts, and which reviews go to it, from 1."""

    texts: PersonaTexts
    reviews: frozenset[int]


@dataclass(frozen=True, slots=True)
class Event:
    """A decision as people see it. at: seconds since 1970 by the reviewer's clock."""

    at: int
    by: str
    action: Action
    remark: str


@dataclass(frozen=True, slots=True)
class PersonaReview:
    """A persona in review.

    seen: what a decision on it has to name: it changes with each decision and with the texts.
    flags: name -> what was found. risk: 0 to 1. compared: other texts of the same persona: what
    was decided on before reasoning changed it, or, if `is_pinned`, what reasoning writes now.
    """

    persona_id: str
    texts: PersonaTexts
    state: State
    seen: str
    flags: Mapping[str, str] = field(default_factory=dict)
    risk: float = 0.0
    evidence_count: int = 0
    compared: PersonaTexts | None = None
    is_pinned: bool = False
    history: Sequence[Event] = ()

    def matches(self, state: str, flag: str) -> bool:
        """Whether it is in this state ("open" is any that waits, "" any) and has this flag."""
        fits = not state or (self.state in OPEN if state == "open" else self.state == state)
        return fits and (not flag or flag in self.flags)


@dataclass(frozen=True, slots=True)
class ItemReview:
    """An item in review. following: the next item of the queue; "" at its end."""

    item_id: str
    title: str
    personas: Sequence[PersonaReview]
    following: str = ""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """An item of the queue. waiting: its personas that wait for a decision. risk: the largest."""

    item_id: str
    title: str
    personas: int
    waiting: int
    risk: float
    flags: Sequence[str]


@dataclass(frozen=True, slots=True)
class QueuePage:
    """A part of the queue. total: the items of all parts. following: where the next one starts."""

    rows: Sequence[QueueRow]
    total: int
    following: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """A decision that a reviewer makes. seen: see `PersonaReview`. texts: of an edit or a split.

    remark: what the reviewer says; with the action "ask", the LLM reads it. other: of a split.
    """

    by: str
    action: Action
    item_id: str
    persona_id: str
    seen: str
    texts: PersonaTexts | None = None
    remark: str = ""
    other: SplitOff | None = None


class Desk(Protocol):
    """Finds what is to be reviewed, and keeps decisions. Its methods block; it is thread-safe."""

    def queue(self, start: int, count: int, state: str = "", flag: str = "") -> QueuePage:
        """Items, the riskiest first.

        state: only items with a persona in this state; "open" is any that waits. flag: only items
        with this flag.
        """

    def counts(self) -> Mapping[State, int]:
        """The number of personas by state."""

    def states(self) -> Iterable[tuple[str, Sequence[int], Sequence[State]]]:
        """Of each item its id, the `persona_key` of its personas, and their states."""

    def notes(self) -> Sequence[str]:
        """What a reviewer should know of the files, in sentences."""

    def item(self, item_id: str) -> ItemReview | None:
        """An item with its personas; None if there is none."""

    def waits_for_publish(
        self, item_id: str, held: Sequence[StoredPersona], metadata: IndexMetadata
    ) -> bool:
        """Whether a publish would change an item's texts in the index, which holds these."""

    def decide(self, order: Order) -> None:
        """Keep a decision. Raises ConflictError or InputError, with nothing kept."""

    def is_rejected(self, persona: StoredPersona) -> bool:
        """Whether a persona of the index is rejected."""
