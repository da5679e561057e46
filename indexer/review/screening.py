"""What review and moderation let through to an index."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import stamp_of
from indexer.artifacts.names import FLAGS
from indexer.artifacts.outdated import persona_digest
from indexer.review.decisions import Decisions
from indexer.review.flags import Flags, are_old
from indexer.review.standing import (
    APPROVED,
    OF_ACTION,
    Reviewed,
    gone,
    is_rejection,
    reviewed,
    verdict,
)
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.moderation import APPROVED_ONLY, HIDE_FLAGGED, Rules
from p4r_qdrant.records import ItemPersonas, StoredPersona

REJECTED, BANNED = "rejected", "against the rules"
NOT_APPROVED, FLAGGED = "not approved", "flagged"


@dataclass(frozen=True)
class Policy:
    """What may be served. A rejected persona never is, nor one that breaks the rules.

    approved_only: nothing that no reviewer has approved, edited or locked. hide_flagged: nothing
    that has a flag, unless a reviewer has approved it.
    """

    rules: Rules = field(default_factory=Rules)
    approved_only: bool = False
    hide_flagged: bool = False

    @classmethod
    def of_version(cls, rules: Rules, metadata: IndexMetadata) -> Policy:
        """The policy with which a version was published."""
        words = metadata.policy.split()
        return cls(rules, APPROVED_ONLY in words, HIDE_FLAGGED in words)

    @property
    def recorded(self) -> str:
        """The form in the metadata of a version."""
        words = {APPROVED_ONLY: self.approved_only, HIDE_FLAGGED: self.hide_flagged}
        return " ".join(word for word, holds in words.items() if holds)

    def reason_against(self, one: Reviewed, *, is_flagged: bool) -> str:
        """Why a persona is not served; "" if it may be."""
        if one.state == "rejected":
            return REJECTED
        if self.rules.problem(one.persona):
            return BANNED
        if one.state not in APPROVED:
            if self.approved_only:
                return NOT_APPROVED
            if self.hide_flagged and is_flagged:
                return FLAGGED
        return ""


@dataclass(frozen=True, slots=True)
class Screened:
    """An item with the personas that may be served: at least one.

    positions: the place of each in personas.jsonl; None where the texts are a reviewer's.
    """

    item: ItemPersonas
    positions: tuple[int | None, ...]


class Screening:
    """Applies decisions and a policy to the items of a folder; counts what it withholds.

    Decisions are read when it is made. Raises InputError if they cannot be read, or if flags are
    needed and there are none.
    """

    def __init__(self, folder: Path, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._folder = folder
        self._decisions = Decisions(folder)
        self._flags, self._are_flags_old = Flags(), False
        self._flags_read: object = None
        self.refresh()
        self._undecided_about = set(self._decisions.items())
        self.withheld: Counter[str] = Counter()
        """Personas that are not served, by reason."""
        self.pinned = 0
        """Personas served with the texts of a reviewer."""
        self.lost_decisions = 0
        """Decisions on personas that their items no longer have."""
        self.items: set[str] = set()
        """Items none of whose personas may be served."""

    def refresh(self, policy: Policy | None = None) -> None:
        """Read the decisions and flags that were made meanwhile. Raises InputError.

        policy: takes the place of the one before.
        """
        self.policy = policy or self.policy
        self._decisions.refresh()
        stamp = stamp_of(self._folder / FLAGS)
        if self.policy.hide_flagged and (not stamp or stamp != self._flags_read):
            self._flags, self._flags_read = Flags.needed(self._folder), stamp
            self._are_flags_old = are_old(self._folder)

    @property
    def broken(self) -> Refusals:
        """Lines of decisions.jsonl that are no decisions."""
        return self._decisions.broken

    def screened(self, item: ItemPersonas) -> Screened | None:
        """The item as it may be served; None if none of its personas may be."""
        decided = self._decisions.of(item.item_id)
        self._undecided_about.discard(item.item_id)
        if decided:
            self.lost_decisions += gone(item, decided)
        kept = []
        for one in reviewed(item, decided):
            is_flagged = bool(self._flags.of(item.item_id, one.persona))
            if reason := self.policy.reason_against(one, is_flagged=is_flagged):
                self.withheld[reason] += 1
            else:
                kept.append(one)
        if not kept and item.personas:
            self.items.add(item.item_id)
            return None
        self.pinned += sum(one.is_pinned for one in kept)
        personas = [one.persona for one in kept]
        if personas == item.personas:
            return Screened(item, tuple(range(len(personas))))
        positions = tuple(_position(item, one) for one in kept)
        return Screened(item.model_copy(update={"personas": personas}), positions)

    def may_stay(self, persona: StoredPersona) -> bool:
        """Whether a persona that is served may be, although its item has others now.

        Only where approved personas alone are served: then it is one, word for word.
        """
        rows = self._decisions.of(persona.item_id).get(persona.persona_id, ())
        last = verdict(rows)
        return (
            self.policy.approved_only
            and last is not None
            and OF_ACTION[last.action] in APPROVED
            and last.after == persona_digest(persona)
            and not self.policy.rules.problem(persona)
        )

    def rejected(self) -> dict[str, set[str]]:
        """Item -> `persona_digest` of its rejected personas."""
        found: dict[str, set[str]] = {}
        for item_id in self._decisions.items():
            for rows in self._decisions.of(item_id).values():
                if is_rejection(last := verdict(rows)):
                    found.setdefault(item_id, set()).add(last.after)
        return found

    def sentences_on_withheld(self) -> list[str]:
        """What to say of what is not served, and of the texts of reviewers."""
        said = []
        if self._are_flags_old:
            said.append(
                "review: the personas are newer than their flags: run p4r review flag again"
            )
        if total := self.withheld.total():
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.withheld.most_common())
            said.append(f"review: {total:,} personas are not served: {why}")
        if self.items:
            said.append(
                f"review: {len(self.items):,} items have no persona left, and are not served "
                f"(first: {min(self.items)!r})"
            )
        if self.pinned:
            said.append(f"review: {self.pinned:,} personas have the texts of reviewers")
        return said

    def sentences(self) -> list[str]:
        """What to say once all items are screened: also decisions without effect."""
        said = self.sentences_on_withheld()
        about_gone = self.lost_decisions + sum(
            len(rows) for one in self._undecided_about for rows in self._decisions.of(one).values()
        )
        if about_gone:
            said.append(f"review: {about_gone:,} decisions are about personas that are gone")
        if self.broken.total:
            said.append(
                f"review: {self.broken.total:,} lines are no decisions ({self.broken.sentences[0]})"
            )
        return said


def _position(item: ItemPersonas, one: Reviewed) -> int | None:
    """Where the very persona is in its item; None if its texts are a reviewer's alone."""
    at = one.position
    return at if at is not None and item.personas[at] == one.persona else None
