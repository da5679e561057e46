"""Texts to vectors (Eq. 6-8), and what identifies an encoder."""

from importlib import import_module
from typing import Any

_MOVED = {
    "Encoder": "base",
    "PersonaEncoder": "local",
    "UserVector": "user_vector",
    "load_encoder": "loading",
}
"""Names of this module before it was a package."""


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MOVED[name]}"), name)
