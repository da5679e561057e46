"""RecBole's atomic files: NAME.inter and NAME.item, whose headers tell the types of the columns.

Their names differ between data sets, so the commonest are known, and others can be named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from indexer.datasets.plain import plain
from indexer.datasets.sources import Format, Row

_ALSO_CALLED: Mapping[str, Sequence[str]] = {
    "title": ("movie_title", "item_name", "name", "book_title"),
    "categories": ("class", "genre", "genres", "category", "categories_seq", "tags"),
    "description": ("item_description",),
    "brand": ("publisher", "store"),
}


def recbole(columns: Mapping[str, str] | None = None) -> Format:
    """The format. columns: as in `plain`. Raises InputError for an unknown field name."""
    form = plain(columns)
    named = {one.ours for one in form.named if "items" in one.kinds}
    return replace(
        form,
        item=lambda row: form.item(_item(row, named)),
        review=lambda row: form.review({name: _text(value) for name, value in row.items()}),
    )


def _item(row: Row, named: set[str]) -> Row:
    """The row with our names for its columns, and texts in place of lists of words."""
    found = {name: value if _is_categories(name) else _text(value) for name, value in row.items()}
    for ours, others in _ALSO_CALLED.items():
        theirs = next((name for name in others if name in found), None)
        if ours not in found and ours not in named and theirs is not None:
            found[ours] = found.pop(theirs)
    if "categories" in found:
        found["categories"] = _categories(_text(found["categories"]))
    return found


def _is_categories(name: str) -> bool:
    return name == "categories" or name in _ALSO_CALLED["categories"]


def _text(value: object) -> object:
    """Words as the text they were split from."""
    is_words = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return " ".join(value) if is_words and isinstance(value, list) else value


def _categories(value: object) -> object:
    """Names that are in quotes, or between commas, or single words."""
    if not isinstance(value, str):
        return value
    if quoted := re.findall(r"'([^']+)'|\"([^\"]+)\"", value):
        return [single or double for single, double in quoted]
    return [one.strip() for one in value.split("," if "," in value else " ")]
