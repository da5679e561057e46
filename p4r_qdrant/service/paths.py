"""Paths of the service: ids in them, and paths that are neither logged nor traced."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import Path
from pydantic import BeforeValidator

from p4r_qdrant.records import MAX_ID_LENGTH, Id


def _decoded(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("an id in a path is percent-encoded UTF-8") from None


_IN_PATH = Path(description="Percent-encoded; a slash is %2F.", min_length=1)
ItemId = Annotated[Id, BeforeValidator(_decoded), _IN_PATH]
UserId = Annotated[Id, BeforeValidator(_decoded), _IN_PATH]

__all__ = ["MAX_ID_LENGTH", "ItemId", "UserId"]


QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Polled every few seconds: not traced, and logged only when they fail."""
