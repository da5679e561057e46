"""Items and reviews with our field names, or with others that the caller maps to them.

In CSV, categories are a JSON list or are separated by "|".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from indexer.datasets import values
from indexer.datasets.sources import Format, Row
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review


def plain(columns: Mapping[str, str] | None = None) -> Format:
    """The format. columns: our field name -> the column of the source.

    Raises: InputError for an unknown field name.
    """
    columns = columns or {}
    known = {*Item.model_fields, *Review.model_fields}
    for ours in columns:
        if ours not in known:
            raise InputError(
                f"there is no field {ours!r}; the fields are {', '.join(sorted(known))}"
            )
    return Format(
        lambda row: _item(_renamed(row, columns)), lambda row: _review(_renamed(row, columns))
    )


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
