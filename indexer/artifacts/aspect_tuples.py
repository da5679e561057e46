"""Which aspect tuples are worth keeping (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping

MOST_NULLS = 0.75
"""The largest share of empty slots that a tuple may have."""


def is_informative(aspects: Mapping[str, str | None]) -> bool:
    """Whether a tuple is kept: at most 75 % of its slots are empty. Source: Eq. 2."""
    nulls = sum(not text for text in aspects.values())
    return bool(aspects) and nulls <= MOST_NULLS * len(aspects)
