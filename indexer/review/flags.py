"""What an audit suspects of single personas: FOLDER/flags.jsonl.

    {"item_id", "persona_id", "digest", "flags": {"complaint": "cited reviews rate it 1.5 of 5"}}

A flag belongs to a text: it is ignored once the persona's digest is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import FLAGS, PERSONAS
from indexer.artifacts.opening import as_stored
from indexer.artifacts.outdated import persona_digest
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Persona, Text

INJECTION, BANNED, COMPLAINT = "injection", "banned words", "complaint"
UNGROUNDED, FOREIGN, TWIN = "weak grounding", "foreign language", "near twin"

WEIGHTS: Mapping[str, float] = {
    INJECTION: 0.9,
    BANNED: 0.9,
    COMPLAINT: 0.7,
    UNGROUNDED: 0.5,
    FOREIGN: 0.5,
    TWIN: 0.3,
}
"""How much each flag says that a persona needs a person: see `risk_of`."""


def risk_of(flags: Mapping[str, str]) -> float:
    """The risk of a persona with these flags, 0 to 1: each flag leaves 1 - weight of the rest."""
    return 1 - prod(1 - WEIGHTS.get(name, 0.5) for name in flags)


def are_old(folder: Path) -> bool:
    """Whether the personas of a folder were written after their flags."""
    flags, personas = folder / FLAGS, as_stored(folder / PERSONAS)
    return personas.is_file() and flags.stat().st_mtime < personas.stat().st_mtime


class FlagRecord(BaseModel):
    """One line: a persona that has flags. flags: name -> what was found, in a few words."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    item_id: Id
    persona_id: Id
    digest: str
    flags: dict[str, Text]


@dataclass
class Flags:
    """The flags of a folder, by item and persona."""

    found: dict[str, dict[str, FlagRecord]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, refusals: Refusals) -> Flags:
        """Read the file; without one there are no flags. Raises InputError."""
        path, flags = folder / FLAGS, cls()
        if path.is_file():
            for _, _, one in read_lines(path, FlagRecord, refusals):
                flags.found.setdefault(one.item_id, {})[one.persona_id] = one
        return flags

    @classmethod
    def needed(cls, folder: Path) -> Flags:
        """Read the file. Raises InputError without it: then nothing is known of any persona."""
        if not (folder / FLAGS).is_file():
            raise InputError(
                f"{folder} holds no {FLAGS}: make it with p4r review flag --artifacts {folder}"
            )
        return cls.read(folder, Refusals())

    def of(self, item_id: str, persona: Persona) -> Mapping[str, str]:
        """The flags of a persona with this text."""
        one = self.found.get(item_id, {}).get(persona.persona_id)
        return one.flags if one is not None and one.digest == persona_digest(persona) else {}
