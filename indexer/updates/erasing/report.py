"""What an erasure did: where it looked, what it removed, what remains and until when.

FOLDER/erasures.jsonl keeps a line for each. No line holds an id or a word of a person.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from indexer.artifacts.names import ERASURES
from indexer.artifacts.writing import storage_errors
from p4r_qdrant.errors import P4RError
from p4r_qdrant.index.metadata import today
from p4r_qdrant.whole_files import opened_privately

Kind = Literal["artifacts", "results", "index", "users"]


@dataclass
class Place:
    """One place that was looked at.

    removed: numbers by what was removed, by this run; a killed one may have removed more. remains:
    what is still there and until when, as sentences. problem: why it could not be looked at.
    """

    kind: Kind
    where: str
    removed: Counter[str] = field(default_factory=Counter)
    remains: list[str] = field(default_factory=list)
    problem: P4RError | None = None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "where": self.where,
            "removed": {what: count for what, count in self.removed.items() if count},
            "remains": self.remains,
            "problem": str(self.problem or ""),
        }


@dataclass
class Erased:
    """What an erasure did, and what follows from it.

    users: their number. places: where it looked. items: to reason on again, since their personas
    may rest on these users. bare: those without personas in the artifacts now.
    """

    users: int = 0
    places: list[Place] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)

    @property
    def problem(self) -> P4RError | None:
        """Why a place could not be looked at: the first such error."""
        return next((one.problem for one in self.places if one.problem is not None), None)

    @property
    def remains(self) -> list[str]:
        """What remains anywhere, as sentences."""
        return [sentence for place in self.places for sentence in place.remains]

    def record(self) -> dict[str, Any]:
        """As JSON, without anything of a person."""
        return {
            "ended_at": today(),
            "users": self.users,
            "complete": self.problem is None,
            "items": self.items,
            "without_personas": self.bare,
            "places": [one.record() for one in self.places],
        }


def append(folder: Path, record: dict[str, Any]) -> None:
    """Add a line to the folder's reports; it is on the disk on return. Raises InputError."""
    path = folder / ERASURES
    with storage_errors(path), opened_privately(path, "ab") as file:
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
