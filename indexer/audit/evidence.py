"""Count which users the personas cite, and which of them exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from indexer.audit.figures import EvidenceFigures, Found, Histogram
from p4r_qdrant.records import ItemPersonas, Persona

_TENTHS = [round(n / 10, 1) for n in range(11)]


@dataclass
class Evidence:
    """Collects the citations of personas.

    offsets: the byte offset of each aspect tuple by item and user; None without aspects.jsonl.
    """

    held_out: set[tuple[str, str]]
    offsets: Mapping[str, Mapping[str, int]] | None
    unsupported: int = 0
    unseen: int = 0
    cited: int = 0
    leaked: Found = field(default_factory=Found)
    missing: Found = field(default_factory=Found)
    shares: list[float] = field(default_factory=list)
    covered: int = 0
    tuples: int = 0

    def add(self, one: ItemPersonas) -> None:
        """Count the citations of an item's personas."""
        own = (self.offsets or {}).get(one.item_id, {})
        unseen = self.offsets is not None and not own
        covered = set()
        for persona in one.personas:
            self.unsupported += not persona.evidence and not unseen
            self.unseen += not persona.evidence and unseen
            self.cited += len(persona.evidence)
            covered |= self._check(one.item_id, persona, own)
        if own and one.personas:
            self.shares.append(len(covered) / len(own))
            self.covered += len(covered)
            self.tuples += len(own)

    def _check(self, item_id: str, persona: Persona, own: Mapping[str, int]) -> set[str]:
        """The cited users whose aspects exist."""
        for user_id in persona.evidence:
            if (user_id, item_id) in self.held_out:
                self.leaked.add(f"{persona.persona_id} of {item_id} cites {user_id}")
            elif user_id not in own:
                self.missing.add(f"{persona.persona_id} of {item_id} cites {user_id}")
        return own.keys() & set(persona.evidence)

    def figures(self) -> EvidenceFigures:
        """The figures of all items so far."""
        return EvidenceFigures(
            cited=self.cited,
            held_out=self.leaked,
            missing=None if self.offsets is None else self.missing,
            unsupported=self.unsupported,
            unseen=self.unseen,
            coverage=float(np.mean(self.shares)) if self.shares else None,
            coverage_of_tuples=self.covered / self.tuples if self.tuples else None,
            coverage_of_items=Histogram.of(self.shares, _TENTHS) if self.shares else None,
        )
