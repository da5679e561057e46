"""What an engine gives: the primitives under PersonaIndex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p4r_qdrant.index.metadata import IndexMetadata


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A vector that a Qdrant server holds: a query names it instead of carrying it."""

    collection: str
    point_id: str
    name: str


@dataclass(frozen=True, slots=True)
class IndexStats:
    """What `p4r status` shows. `details` are the engine's own words, for people."""

    engine: str
    location: str
    personas: int
    items: int
    metadata: IndexMetadata
    details: Mapping[str, str]
