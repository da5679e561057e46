"""The review desk of an artifact folder: the queue, items in review, and decisions."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup, stamp_of
from indexer.artifacts.names import FLAGS, PERSONAS
from indexer.artifacts.outdated import persona_digest
from indexer.review.deciding import decision_for
from indexer.review.decisions import Decision, Decisions, Texts
from indexer.review.flags import BANNED, Flags, are_old, risk_of
from indexer.review.screening import Policy
from indexer.review.standing import Reviewed, reviewed, version
from p4r_qdrant.errors import InputError, RecordError
from p4r_qdrant.index.maps import persona_key
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import Item, ItemPersonas, State, StoredPersona
from p4r_qdrant.service.studio.desk import (
    OPEN,
    ConflictError,
    Event,
    ItemReview,
    Order,
    PersonaReview,
    PersonaTexts,
    QueuePage,
    QueueRow,
)

_Place = tuple[bool, float, float, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the queue knows of an item. keys: `persona_key` of each persona.

    flags, risk: of the personas that are not rejected.

    waiting_risk: the largest risk of those that wait.
    """

    states: tuple[State, ...]
    keys: tuple[int, ...]
    flags: tuple[str, ...]
    risk: float
    waiting_risk: float

    @property
    def waiting(self) -> int:
        return sum(one in OPEN for one in self.states)

    def place(self, item_id: str) -> _Place:
        """Where the item is in the queue: what sorts it."""
        return not self.waiting, -self.waiting_risk, -self.risk, item_id

    def matches(self, state: str, flag: str) -> bool:
        if flag and flag not in self.flags:
            return False
        return not state or (self.waiting > 0 if state == "open" else state in self.states)


class ReviewDesk:
    """See `Desk`. Follows the files of the folder as they change.

    broken: their lines that cannot be read, but for those of decisions.

    Memory holds ids, states and flags, no texts but those of decisions. Without personas.jsonl the
    queue is empty.
    """

    def __init__(self, folder: ArtifactFolder, rules: Rules) -> None:
        self._folder = folder
        self._rules = rules
        self._lock = threading.RLock()
        self._decisions = Decisions(folder.path)
        self._stamp: tuple[object, ...] = ()
        self._entries: dict[str, _Entry] = {}
        self._order: list[_Place] = []
        self._flags = Flags()
        self.broken = Refusals()

    # -- look-ups -----------------------------------------------------------------------------

    def queue(self, start: int, count: int, state: str = "", flag: str = "") -> QueuePage:
        """See `Desk`."""
        with self._lock:
            self._follow()
            every = [one for *_, one in self._order if self._entries[one].matches(state, flag)]
            end = start + count
            with self._items as items:
                rows = [self._row(one, items) for one in every[start:end]]
            return QueuePage(rows, len(every), end if end < len(every) else None)

    def counts(self) -> Mapping[State, int]:
        """See `Desk`."""
        with self._lock:
            self._follow()
            return Counter(state for entry in self._entries.values() for state in entry.states)

    def states(self) -> list[tuple[str, Sequence[int], Sequence[State]]]:
        """See `Desk`."""
        with self._lock:
            self._follow()
            return [(item_id, one.keys, one.states) for item_id, one in self._entries.items()]

    def notes(self) -> Sequence[str]:
        """See `Desk`."""
        if not self._folder.has(PERSONAS):
            return [f"The folder has no {PERSONAS} yet: p4r reason makes it, or the worker does."]
        said = []
        if not (self._folder.path / FLAGS).is_file():
            said.append("No flags are known: make them with p4r review flag --artifacts DIR.")
        elif are_old(self._folder.path):
            said.append("The personas are newer than their flags: run p4r review flag again.")
        with self._lock:
            self._follow()
            if self.broken.total:
                first = self.broken.sentences[0]
                said.append(f"{self.broken.total} lines cannot be read (the first: {first}).")
            if broken := self._decisions.broken.total:
                said.append(f"{broken} lines of {self._decisions.path.name} are no decisions.")
            if about_gone := sum(
                len(rows)
                for one in self._decisions.items()
                if one not in self._entries
                for rows in self._decisions.of(one).values()
            ):
                said.append(f"{about_gone} decisions are about items that are gone.")
        return said

    def item(self, item_id: str) -> ItemReview | None:
        """See `Desk`."""
        with self._lock:
            self._follow()
            record = self._record(item_id)
            if record is None:
                return None
            personas = [
                self._persona(item_id, one) for one in reviewed(record, self._decisions.of(item_id))
            ]
            with self._items as items:
                title = _title(item_id, items)
            return ItemReview(item_id, title, personas, self._following(item_id))

    def decided(self, item_id: str) -> list[Reviewed]:
        """The personas of an item with what was decided about them; none without the item."""
        with self._lock:
            self._follow()
            record = self._record(item_id)
            return reviewed(record, self._decisions.of(item_id)) if record else []

    def item_ids(self) -> list[str]:
        """All items, the riskiest first."""
        with self._lock:
            self._follow()
            return [one for *_, one in self._order]

    def is_rejected(self, persona: StoredPersona) -> bool:
        """See `Desk`."""
        own = (persona_digest(persona), persona.persona_id)  # the index may hold an older text
        return any(
            one.state == "rejected" and (one.digest == own[0] or one.persona.persona_id == own[1])
            for one in self.decided(persona.item_id)
        )

    def waits_for_publish(
        self, item_id: str, held: Sequence[StoredPersona], metadata: IndexMetadata
    ) -> bool:
        """See `Desk`."""
        policy = Policy.of_version(self._rules, metadata)
        served, withheld = set[tuple[str, str]](), set[tuple[str, str]]()
        for one in self.decided(item_id):
            is_flagged = bool(self._flags.of(item_id, one.persona))
            reason = policy.reason_against(one, is_flagged=is_flagged)
            (withheld if reason else served).add((one.persona.persona_id, one.digest))
        live = {(one.persona_id, persona_digest(one)) for one in held}
        if policy.approved_only:  # texts that were approved stay until others are
            return not served <= live or not withheld.isdisjoint(live)
        return bool(served or withheld) and served != live

    def items_decided_on(self) -> list[str]:
        """The items with decisions."""
        with self._lock:
            self._follow()
            return self._decisions.items()

    @property
    def decisions(self) -> int:
        """The number of decisions, undone ones too."""
        with self._lock:
            self._follow()
            return sum(1 for _ in self._decisions)

    # -- deciding -----------------------------------------------------------------------------

    def decide(self, order: Order) -> None:
        """See `Desk`."""
        self.decide_all([order])

    def decide_all(
        self, orders: Iterable[Order], refuse: Callable[[Order, InputError], None] | None = None
    ) -> list[Decision]:
        """Keep decisions one after the other; returns those that were kept.

        refuse: gets those that are not possible. Without it the first one is raised, and ends it.
        """

        def made() -> Iterator[Decision]:
            for order in orders:
                try:
                    one = self._decision(order)
                except InputError as error:
                    if refuse is None:
                        raise
                    refuse(order, error)
                else:
                    yield one

        with self._lock:
            self._follow()
            return self._decisions.append(made)

    def _decision(self, order: Order) -> Decision:
        record = self._record(order.item_id)
        if record is None:
            raise ConflictError(f"the folder no longer has the item {order.item_id!r}")
        return decision_for(order, record, self._decisions.of(order.item_id), self._rules)

    # -- the files ----------------------------------------------------------------------------

    def _follow(self) -> None:
        """Read what has changed. Raises InputError."""
        stamp = tuple(map(stamp_of, (self._folder.at(PERSONAS), self._folder.path / FLAGS)))
        news = self._decisions.refresh()
        is_new = stamp != self._stamp
        if is_new:
            self.broken = Refusals()
            self._records: Lookup[ItemPersonas] = Lookup(
                self._folder.at(PERSONAS), ItemPersonas, self.broken
            )
            self._items: Lookup[Item] = self._folder.items(self.broken)
            self._flags = Flags.read(self._folder.path, self.broken)
            self._entries, self._order = {}, []
            self._stamp = stamp
            news = set(self._records.ids())
        if not news:
            return
        with self._records as records:
            for one in news:
                before = self._entries.pop(one, None)
                if before is not None:
                    del self._order[bisect_left(self._order, before.place(one))]
                after = self._entry(one, records)
                if after is not None:
                    self._entries[one] = after
                    add = self._order.append if is_new else partial(insort, self._order)
                    add(after.place(one))
        if is_new:
            self._order.sort()

    def _entry(self, item_id: str, records: Lookup[ItemPersonas]) -> _Entry | None:
        record = records.get(item_id)
        if record is None:
            return None
        personas = reviewed(record, self._decisions.of(item_id))
        kept = [
            (one.state, self._flags_of(item_id, one)) for one in personas if one.state != "rejected"
        ]
        return _Entry(
            tuple(one.state for one in personas),
            tuple(persona_key(one.persona.persona_id) for one in personas),
            tuple(dict.fromkeys(name for _, flags in kept for name in flags)),
            max((risk_of(flags) for _, flags in kept), default=0.0),
            max((risk_of(flags) for state, flags in kept if state in OPEN), default=0.0),
        )

    def _flags_of(self, item_id: str, one: Reviewed) -> Mapping[str, str]:
        flags = self._flags.of(item_id, one.persona)
        problem = self._rules.problem(one.persona)
        return {BANNED: problem, **flags} if problem else flags

    def _record(self, item_id: str) -> ItemPersonas | None:
        with suppress(RecordError), self._records as records:  # changed by another process just now
            return records.get(item_id)
        return None

    def _row(self, item_id: str, items: Lookup[Item]) -> QueueRow:
        entry = self._entries[item_id]
        return QueueRow(
            item_id,
            _title(item_id, items),
            len(entry.states),
            entry.waiting,
            entry.waiting_risk if entry.waiting else entry.risk,
            entry.flags,
        )

    def _following(self, item_id: str) -> str:
        waiting = (one for done, *_, one in self._order if one != item_id and not done)
        return next(waiting, "")

    def _persona(self, item_id: str, one: Reviewed) -> PersonaReview:
        flags = self._flags_of(item_id, one)
        return PersonaReview(
            persona_id=one.persona.persona_id,
            texts=_texts(Texts.of(one.persona)),
            state=one.state,
            seen=version(one),
            flags=flags,
            risk=risk_of(flags),
            evidence_count=len(one.persona.evidence),
            compared=_texts(one.compared) if one.compared is not None else None,
            is_pinned=one.is_pinned,
            history=[Event(row.at, row.by, row.action, row.remark) for row in one.rows],
        )


def _texts(texts: Texts) -> PersonaTexts:
    return PersonaTexts(texts.name, texts.description, texts.preference_rationale)


def _title(item_id: str, items: Lookup[Item]) -> str:
    with suppress(RecordError):
        item = items.get(item_id)
        return plain_text(item.title) if item is not None else ""
    return ""
