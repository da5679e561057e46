"""Check the columns of a source before its rows are read, and say what is near to those wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from indexer.artifacts.lines import Refusals
from indexer.datasets.delimited import TextRow
from indexer.datasets.formats import FORMATS
from indexer.datasets.sources import Columns, Format, Kind, Row, Source
from p4r_qdrant.errors import InputError

LOOKED_AT = 100
"""A column that none of the first so many rows has is missing."""

_MOST_NAMES = 20
_OPTIONS: Mapping[Kind, str] = {"items": "--item-columns", "reviews": "--columns"}
_ALSO_CALLED: Mapping[str, Sequence[str]] = {
    "user_id": ("user", "uid", "reviewer_id", "customer_id", "member_id", "author_id", "username"),
    "item_id": (
        *("item", "iid", "asin", "parent_asin", "product_id", "movie_id", "book_id", "isbn"),
        *("business_id", "gmap_id", "venue_id", "game_id", "app_id", "recipe_id", "sku"),
    ),
    "rating": ("stars", "overall", "score", "rate", "review_score", "review_rating"),
    "timestamp": (
        *("time", "date", "datetime", "ts", "unix_review_time", "review_time", "sort_timestamp"),
        *("created_at", "date_added", "review_date"),
    ),
}


def checked_columns(
    source: Source, kind: Kind, form: Format, rows: Iterator[tuple[str, Row]]
) -> Iterator[tuple[str, Row]]:
    """The same rows. Raises InputError if the columns that the format needs are not there."""
    wanted = form.columns(kind)
    first: list[tuple[str, Row]] = []
    found: dict[str, None] = {}
    for one in rows:
        first.append(one)
        found.update(dict.fromkeys(one[1]))
        if not _missing(wanted, found) or len(first) == LOOKED_AT:
            break
    if first and _missing(wanted, found):
        raise InputError(_sentence(source, kind, form, list(found), first[0][1]))
    return chain(first, rows)


class NamedColumns:
    """Which of the columns that the caller named were met, in items and in reviews."""

    def __init__(self, form: Format, refusals: Refusals) -> None:
        self._named = form.named
        self._read = form.review_fields
        self._unread: dict[str, None] = {}
        self._refusals = refusals
        self._unseen: dict[Kind, set[str]] = {
            kind: {one.theirs for one in form.named if kind in one.kinds}
            for kind in ("items", "reviews")
        }

    def see(self, kind: Kind, row: Row) -> None:
        """Note the columns of a row."""
        if unseen := self._unseen[kind]:
            unseen.difference_update(row)
        if kind == "reviews" and self._read and not self._read.issuperset(row):
            self._unread.update((name, None) for name in row if name not in self._read)

    def check(self) -> None:
        """Raise InputError for a column that no row has; note what is odd about the others."""
        for one in self._named:
            seen = [kind for kind in one.kinds if one.theirs not in self._unseen[kind]]
            if not seen:
                where = " or ".join(one.kinds)
                raise InputError(f"no row of {where} has the column {one.theirs!r}: {one.given}")
            if len(seen) == 2 and one.ours != "item_id":
                self._refusals.note(
                    f"column {one.theirs!r} is the {one.ours} of items and of reviews: name it for "
                    f"one of them, as items.{one.ours}={one.theirs}"
                )
        if self._unread:
            names = ", ".join(list(self._unread)[:_MOST_NAMES])
            self._refusals.note(f"columns of reviews that are not read: {names}")


def _missing(wanted: Columns, found: Mapping[str, None]) -> list[tuple[str, ...]]:
    return [names for names in wanted if not any(name in found for name in names)]


def _sentence(source: Source, kind: Kind, form: Format, found: list[str], first: Row) -> str:
    wanted, known = form.columns(kind), dict.fromkeys(found)
    missing = _missing(wanted, known)
    shown = ", ".join(found[:_MOST_NAMES]) + (", ..." if len(found) > _MOST_NAMES else "")
    name = source if isinstance(source, Path) else "the data frame"
    told = f"{name} has no column {_and(missing)}; its columns are {shown}"
    if isinstance(first, TextRow):
        told += f" (separated by {first.separator!r})"
    told += f", {kind} need {_and(wanted)}"
    return f"{told}; {_advice(kind, form, found, missing)}"


def _advice(kind: Kind, form: Format, found: list[str], missing: list[tuple[str, ...]]) -> str:
    if any(re.fullmatch(r"-?\d+([.,]\d+)?", name) for name in found):
        return f"the first line looks like a record: name the columns with {_OPTIONS[kind]}"
    known = dict.fromkeys(found)
    for name, other in FORMATS.items():
        if not _missing(other.columns(kind), known):
            return f"these are columns of the format {name}"
    if kind == "reviews" and len(missing) > 1 and not _missing(form.columns("items"), known):
        return "are the files of items and reviews swapped?"
    near = [
        (ours, theirs) for [ours, *_] in missing if (theirs := nearest(ours, found)) is not None
    ]
    if not near:
        return "name them with --column OURS=THEIRS, in the format plain"
    return "the nearest: " + " ".join(f"--column {ours}={theirs}" for ours, theirs in near)


def nearest(wanted: str, found: Sequence[str]) -> str | None:
    """The column that most likely holds what `wanted` names, or None."""
    plain = {re.sub(r"[\W_]", "", name.lower()): name for name in reversed(found)}
    for one in (wanted, *_ALSO_CALLED.get(wanted, ())):
        if (name := plain.get(one.replace("_", ""))) is not None:
            return name
    close = get_close_matches(wanted.replace("_", ""), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _and(columns: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(" or ".join(names) for names in columns)
