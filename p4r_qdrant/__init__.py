"""Persona-profiled item indexing on Qdrant: rerank candidates, and say why.

    from p4r_qdrant import PersonaReranker

    with PersonaReranker.from_settings() as reranker:
        ranking = reranker.rerank(user_vector, ["item-1", "item-2"], top=10)

Names are imported when they are first used: importing this package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p4r_qdrant.encoder.base import Encoder
    from p4r_qdrant.encoder.local import PersonaEncoder
    from p4r_qdrant.encoder.user_vector import UserVector
    from p4r_qdrant.errors import P4RError
    from p4r_qdrant.index.index import PersonaIndex
    from p4r_qdrant.index.opening import open_index
    from p4r_qdrant.index.payload import ItemVectors
    from p4r_qdrant.records import (
        Because,
        Candidate,
        Interaction,
        Item,
        Persona,
        RankedItem,
        Ranking,
        Review,
    )
    from p4r_qdrant.rerank.reranker import PersonaReranker
    from p4r_qdrant.settings import Settings

__version__ = "0.1.0"

_HOMES = {
    "p4r_qdrant.encoder.base": ["Encoder"],
    "p4r_qdrant.encoder.local": ["PersonaEncoder"],
    "p4r_qdrant.encoder.user_vector": ["UserVector"],
    "p4r_qdrant.errors": ["P4RError"],
    "p4r_qdrant.index.index": ["PersonaIndex"],
    "p4r_qdrant.index.payload": ["ItemVectors"],
    "p4r_qdrant.index.opening": ["open_index"],
    "p4r_qdrant.records": [
        "Because",
        "Candidate",
        "Interaction",
        "Item",
        "Persona",
        "RankedItem",
        "Ranking",
        "Review",
    ],
    "p4r_qdrant.rerank.reranker": ["PersonaReranker"],
    "p4r_qdrant.settings": ["Settings"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - most used first
    "PersonaReranker",
    "Settings",
    "Interaction",
    "Persona",
    "Candidate",
    "Ranking",
    "RankedItem",
    "Because",
    "Item",
    "Review",
    "Encoder",
    "PersonaEncoder",
    "UserVector",
    "PersonaIndex",
    "ItemVectors",
    "open_index",
    "P4RError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
