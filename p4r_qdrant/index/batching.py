"""Lists of bounded size from streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

from p4r_qdrant.index.payload import (
    ITEM_ID,
    Point,
)

Element = TypeVar("Element")


def whole_items(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    """Lists of up to `size` points. All points of an item are in one list, so a crash never leaves
    an item half written.

    An item with more points than `size` gets a list of its own.
    """
    some: list[Point] = []
    for _, own in groupby(points, lambda one: one.payload[ITEM_ID]):
        item = list(own)
        if some and len(some) + len(item) > size:
            yield some
            some = []
        some += item
    if some:
        yield some


def batches(elements: Iterable[Element], size: int) -> Iterator[list[Element]]:
    """Lists of `size` elements, the last one shorter."""
    iterator = iter(elements)
    while batch := list(islice(iterator, size)):
        yield batch
