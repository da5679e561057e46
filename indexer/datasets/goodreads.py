"""Goodreads, the UCSD Book Graph (Wan and McAuley): goodreads_books and goodreads_reviews."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from indexer.datasets import values
from indexer.datasets.sources import Format, LeftOut, Row

NOT_RATED = "review without a rating (0 of 5 stars)"

_MOST_SHELVES = 5
_NO_GENRE = re.compile(
    r"(all.?time.?)?favou?rites?.*|.*\b(read|reading|reread|tbr|own|owned|buy|bought|wish ?list|"
    r"librar(y|ies)|shelf|shelves|stars?|kindle|nook|e ?books?|audio ?books?|audible|audio|dnf|"
    r"did not finish|abandoned|unfinished|finished|have|default|maybe|my books|book club|"
    r"borrowed|arc|netgalley|giveaways?|currently|next|series|general|\d{4})\b.*"
)


def _item(row: Row) -> Row:
    """A book. Its categories are the shelves that most readers put it on, the commonest last."""
    return {
        "item_id": row.get("book_id"),
        "title": values.name(row.get("title") or row.get("title_without_series")),
        "description": values.text(row.get("description")),
        "categories": _genres(row.get("popular_shelves")),
        "brand": values.name(row.get("publisher")),
        "author": values.name(list(_authors(row.get("authors")))),
        "language": values.name(row.get("language_code")),
        "year": values.count(row.get("publication_year")),
        "pages": values.count(row.get("num_pages")),
        "average_rating": values.number(row.get("average_rating")),
        "rating_number": values.count(row.get("ratings_count")),
    }


def _review(row: Row) -> Row:
    """A review or an interaction; 0 stars mean that none were given."""
    if values.number(row.get("rating")) == 0:
        raise LeftOut(NOT_RATED)
    return {
        "user_id": row.get("user_id"),
        "item_id": row.get("book_id"),
        "rating": row.get("rating"),
        "timestamp": values.seconds(row.get("date_added") or row.get("date_updated")),
        "title": "",
        "text": values.text(row.get("review_text") or row.get("review_text_incomplete")),
    }


def _genres(shelves: Any) -> list[str]:
    """The names of the shelves that tell what a book is, not who has read it."""
    counted: dict[str, float] = {}
    for shelf in shelves if isinstance(shelves, list) else ():
        if isinstance(shelf, Mapping):
            name = values.name(shelf.get("name")).replace("-", " ").lower()
            if name and not _NO_GENRE.fullmatch(name):
                counted.setdefault(name, values.number(shelf.get("count")) or 0)
    return sorted(counted, key=lambda name: counted[name])[-_MOST_SHELVES:]


def _authors(authors: Any) -> Iterator[str]:
    """Names of authors. The published files have only their numbers, which tell nothing."""
    for author in authors if isinstance(authors, list) else [authors]:
        name = author.get("name") if isinstance(author, Mapping) else author
        if isinstance(name, str):
            yield name


GOODREADS = Format(
    _item,
    _review,
    (("book_id",),),
    (("user_id",), ("book_id",), ("rating",), ("date_added", "date_updated")),
)
