"""What a publish changes for readers: the record that a version keeps, and its share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

COUNTS = ("items_before", "items_after", "gained", "lost", "changed")


@dataclass(frozen=True, slots=True)
class ReaderChange:
    """The first items of a synthetic reader before and after: a persona taken for a user.

    The item of the persona itself is left out.
    """

    persona_id: str
    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def left(self) -> list[str]:
        """The items that are no longer among the first."""
        return [one for one in self.before if one not in self.after]

    @property
    def new(self) -> list[str]:
        """The items that were not among the first."""
        return [one for one in self.after if one not in self.before]

    @property
    def share(self) -> float:
        """The share of places that another item takes, 0 to 1."""
        most = max(len(self.before), len(self.after))
        return max(len(self.left), len(self.new)) / most if most else 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a version and the one that was live.

    items_before, items_after, gained, lost, changed: numbers of items; changed ones have other
    texts or fields. examples_gained, examples_lost: some of their ids.
    """

    items_before: int
    items_after: int
    gained: int
    lost: int
    changed: int
    examples_gained: tuple[str, ...] = ()
    examples_lost: tuple[str, ...] = ()
    readers: tuple[ReaderChange, ...] = ()

    @property
    def share(self) -> float:
        """The mean share of the readers' first places that another item takes, 0 to 1.

        1 if no reader could be made: no persona is the same in both.
        """
        if not self.readers:
            return 1.0 if self.items_before else 0.0
        return sum(one.share for one in self.readers) / len(self.readers)

    def to_text(self) -> str:
        """The form in the metadata of a version."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        """All of it with the shares, for programs."""
        readers: Sequence[dict[str, Any]] = [
            {**asdict(one), "share": round(one.share, 4)} for one in self.readers
        ]
        return {**asdict(self), "readers": readers, "share": round(self.share, 4)}

    @classmethod
    def from_text(cls, text: str) -> Changes | None:
        """Read the stored form. None if there is none, or one that this release does not know."""
        if not text:
            return None
        try:
            stored = json.loads(text)
            readers = tuple(
                ReaderChange(
                    str(one["persona_id"]),
                    str(one["name"]),
                    tuple(map(str, one["before"])),
                    tuple(map(str, one["after"])),
                )
                for one in stored["readers"]
            )
            before, after, gained, lost, changed = (int(stored[name]) for name in COUNTS)
            examples = [tuple(map(str, stored[f"examples_{one}"])) for one in ("gained", "lost")]
            return cls(before, after, gained, lost, changed, examples[0], examples[1], readers)
        except (ValueError, KeyError, TypeError):
            return None
