"""The Yelp academic dataset: business.json and review.json, of any year."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from indexer.datasets import values
from indexer.datasets.sources import Format, Row

_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
_NOTHING = {"", "no", "none"}
_PRICE_RANGE = ("RestaurantsPriceRange2", "Price Range", "price_range")
_LONGEST = 10_000
"""Longest attribute value, in characters, that is read as a Python literal."""


def business(row: Row) -> Row:
    """A business as an item. It has no description; its attributes become one."""
    categories = row.get("categories")  # a list until 2017, then text
    attributes = values.parsed_object(_literal(row.get("attributes")))
    known = attributes or {}
    return {
        "item_id": row.get("business_id"),
        "title": values.name(row.get("name")),
        "description": "; ".join(_described(known)),
        "categories": values.names(
            categories.split(",") if isinstance(categories, str) else categories
        ),
        "brand": "",
        "city": values.name(row.get("city")),
        "state": values.name(row.get("state")),
        "price_range": values.count(
            _literal(next((known[name] for name in _PRICE_RANGE if name in known), None))
        ),
        "average_rating": values.number(row.get("stars")),
        "rating_number": values.count(row.get("review_count")),
    }


def _review(row: Row) -> Row:
    return {
        "user_id": row.get("user_id"),
        "item_id": row.get("business_id"),
        "rating": row.get("stars"),
        "timestamp": values.seconds(row.get("date")),
        "title": "",
        "text": values.text(row.get("text")),
    }


def _described(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Phrases such as "outdoor seating", "wi fi: free", "ambience: casual, classy"."""
    for name, value in attributes.items():
        words = _words(str(name))
        value = _literal(value)
        if value is True:
            yield words
        elif isinstance(value, Mapping):
            chosen = [_words(str(one)) for one, holds in value.items() if _literal(holds) is True]
            if chosen:
                yield f"{words}: {', '.join(chosen)}"
        elif not isinstance(value, bool):
            said = values.name(value)
            if said.lower() not in _NOTHING:
                yield f"{words}: {said}"


def _words(name: str) -> str:
    return values.name(_WORD_BEGINS.sub(" ", name)).lower()


def _literal(value: Any) -> Any:
    """The value of a Python literal in JSON text: "True", "u'free'", "{'casual': True}"."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


YELP = Format(
    business,
    _review,
    (("business_id",),),
    (("user_id",), ("business_id",), ("stars",), ("date",)),
)
