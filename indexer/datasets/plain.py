"""Items and reviews with our field names, or with others that the caller maps to them.

In CSV, categories are a JSON list or are separated by "|".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from indexer.datasets import values
from indexer.datasets.sources import Format, Kind, NamedColumn, Row
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

_FIELDS: Mapping[Kind, Mapping[str, object]] = {
    "items": Item.model_fields,
    "reviews": Review.model_fields,
}
_NEEDED = ("user_id", "item_id", "rating", "timestamp")


def plain(columns: Mapping[str, str] | None = None) -> Format:
    """The format. columns: our field name -> the column of the source.

    A name such as "items.title" is for the files of items alone, one such as "title" for both.
    Raises: InputError for an unknown field name.
    """
    named = tuple(_named(ours, theirs) for ours, theirs in (columns or {}).items())
    # A name for one kind of file wins over a name for both.
    ordered = sorted(named, key=lambda one: -len(one.kinds))
    items, reviews = (
        {one.ours: one.theirs for one in ordered if kind in one.kinds} for kind in _FIELDS
    )
    return Format(
        lambda row: _item(_renamed(row, items)),
        lambda row: _review(_renamed(row, reviews)),
        ((items.get("item_id", "item_id"),),),
        tuple((reviews.get(field, field),) for field in _NEEDED),
        named=named,
        review_fields=frozenset({*Review.model_fields} - {*reviews}) | {*reviews.values()},
    )


def _named(given: str, theirs: str) -> NamedColumn:
    kind, dot, ours = given.rpartition(".")
    kinds = [one for one, fields in _FIELDS.items() if ours in fields and kind in ("", one)]
    if not kinds or (dot and not kind):
        known = {*Item.model_fields, *Review.model_fields}
        raise InputError(
            f"there is no field {given!r}; the fields are {', '.join(sorted(known))}, with items. "
            "or reviews. before them for one kind of file"
        )
    return NamedColumn(ours, theirs, tuple(kinds), f"{given}={theirs}")


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    found = {ours: row[name] for ours, name in columns.items() if name in row}
    return {name: row[name] for name in row if name not in columns.values()} | found


def _item(row: Row) -> Row:
    return row | {
        "title": values.name(row.get("title")),
        "description": values.text(row.get("description")),
        "categories": values.names(_list(row.get("categories"))),
        "brand": values.name(row.get("brand")),
    }


def _review(row: Row) -> Row:
    return row | {
        "timestamp": values.seconds(row.get("timestamp")),
        "title": values.text(row.get("title")),
        "text": values.text(row.get("text")),
    }


def _list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value.split("|")
