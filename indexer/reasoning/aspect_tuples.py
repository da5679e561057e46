"""When an aspect tuple says something (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping

MOST_NULLS = 0.75
"""An aspect tuple with a larger share of nulls says nothing (Eq. 2)."""


def tells_something(aspects: Mapping[str, str | None]) -> bool:
    """Whether a tuple may stay: with four slots, where one of them is filled."""
    nulls = sum(not text for text in aspects.values())
    return bool(aspects) and nulls <= MOST_NULLS * len(aspects)
