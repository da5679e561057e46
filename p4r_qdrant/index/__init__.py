"""The persona index: one interface (`index.py`), two engines (`server`, `edge`), equal results."""

from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_index
from p4r_qdrant.index.payload import ItemVectors

__all__ = ["IndexStats", "ItemVectors", "PersonaIndex", "open_index"]
