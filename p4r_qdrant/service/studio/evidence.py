"""What the studio asks for to quote reviews; the caller of the service finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quote:
    """What one reviewer wrote, without a name. number: its place in the evidence, from 1."""

    text: str
    rating: float | None = None
    number: int = 0


class Evidence(Protocol):
    """Finds the reviews behind the personas of an item."""

    def __call__(self, item_id: str) -> Mapping[str, Sequence[Quote]]:
        """Persona id -> the reviews that support it."""
