"""Await several calls at once without losing those in flight when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def together(*calls: Awaitable[T]) -> list[T]:
    """The results in order. All calls end first; then the first exception, if any, is raised."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    results: list[T] = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results
