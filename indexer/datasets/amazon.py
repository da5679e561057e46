"""Amazon Reviews: the dumps of 2023 (Hou et al.), 2018 (Ni et al.) and 2014 (McAuley et al.).

2014 and 2018 have the same field names; the metadata of 2014 are Python dict literals.
"""

from __future__ import annotations

from collections.abc import Mapping

from indexer.datasets import values
from indexer.datasets.sources import Format, Row


def _item_2023(row: Row) -> Row:
    """A line of meta_*.jsonl.

    Features go into the description, because half of the items have no other one. `details` is an
    object in the JSON Lines files and JSON text in the Parquet ones.
    """
    details = values.parsed_object(row.get("details")) or {}
    author = row.get("author")
    return {
        "item_id": row.get("parent_asin") or row.get("asin"),
        "title": values.name(row.get("title")),
        "description": values.text([row.get("description"), row.get("features")]),
        "categories": values.names(row.get("categories")) or values.names(row.get("main_category")),
        "brand": values.name(row.get("store") or details.get("Brand")),
        "main_category": values.name(row.get("main_category")),
        "subtitle": values.name(row.get("subtitle")),
        "author": values.name(author.get("name") if isinstance(author, Mapping) else author),
        "price": values.number(row.get("price")),
        "average_rating": values.number(row.get("average_rating")),
        "rating_number": values.count(row.get("rating_number")),
    }


def _review_2023(row: Row) -> Row:
    """A line of a review file; the first release called the time stamp `sort_timestamp`."""
    return {
        "user_id": row.get("user_id"),
        "item_id": row.get("parent_asin") or row.get("asin"),
        "rating": row.get("rating"),
        "timestamp": values.seconds(row.get("timestamp", row.get("sort_timestamp"))),
        "title": values.text(row.get("title")),
        "text": values.text(row.get("text")),
    }


def _item_2018(row: Row) -> Row:
    """A line of meta_*.json, of 2018 (category, feature) or of 2014 (categories, a list of lists).

    Some titles of 2018 are a script of the shop page, which contains `getTime`.
    """
    title = values.name(row.get("title"))
    main_category = values.name(row.get("main_cat"))
    categories = values.names(row.get("category") or row.get("categories"))
    return {
        "item_id": row.get("asin"),
        "title": "" if "getTime" in title else title,
        "description": values.text([row.get("description"), row.get("feature")]),
        "categories": categories or values.names(main_category),
        "brand": values.name(row.get("brand")).removeprefix("by "),
        "main_category": main_category,
        "price": values.number(row.get("price")),
    }


def _review_2018(row: Row) -> Row:
    """A line of a review file, of 2018 or 2014."""
    return {
        "user_id": row.get("reviewerID"),
        "item_id": row.get("asin"),
        "rating": row.get("overall"),
        "timestamp": values.seconds(row.get("unixReviewTime") or row.get("reviewTime")),
        "title": values.text(row.get("summary")),
        "text": values.text(row.get("reviewText")),
    }


_COLUMNS_2018 = (("reviewerID",), ("asin",), ("overall",), ("unixReviewTime", "reviewTime"))
_COLUMNS_2023 = (
    *(("user_id",), ("parent_asin", "asin")),
    *(("rating",), ("timestamp", "sort_timestamp")),
)

AMAZON_2023 = Format(_item_2023, _review_2023, (("parent_asin", "asin"),), _COLUMNS_2023)
AMAZON_2018 = Format(_item_2018, _review_2018, (("asin",),), _COLUMNS_2018)
AMAZON_2014 = Format(_item_2018, _review_2018, (("asin",),), _COLUMNS_2018, python_literals=True)
