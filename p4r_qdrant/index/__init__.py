"""The persona index: one protocol (`base`), two engines (`server`, `edge`), the same answers."""

from p4r_qdrant.index.index import IndexStats, ItemVectors, PersonaIndex, open_index

__all__ = ["IndexStats", "ItemVectors", "PersonaIndex", "open_index"]
