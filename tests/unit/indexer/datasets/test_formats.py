"""Invented rows that hold every published field of each data set, with its known mess."""

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.datasets.amazon import AMAZON_2014, AMAZON_2018, AMAZON_2023
from indexer.datasets.formats import FORMATS, format_named
from indexer.datasets.goodreads import GOODREADS
from indexer.datasets.plain import plain
from indexer.datasets.prepare import Dataset, prepare
from indexer.datasets.recbole import recbole
from indexer.datasets.sources import Format, LeftOut, read_rows
from indexer.datasets.values import storable
from indexer.datasets.yelp import YELP
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review

ITEM_2023 = {
    "main_category": "Books",
    "title": "The Salt &amp; Pepper Orchard",
    "average_rating": 4.4,
    "rating_number": 120,
    "features": ["Large print."],
    "description": ["An orchard by the sea.", "With <b>maps</b>."],
    "price": "from 12.99",
    "images": [{"thumb": "t.jpg", "large": "l.jpg", "variant": "MAIN", "hi_res": None}],
    "videos": [{"title": "A look inside", "url": "u", "user_id": ""}],
    "store": "Maren Osk  (Author)",
    "categories": ["Books", "Fiction", "Sea Stories"],
    "details": {"Publisher": "Tern", "Brand": "Tern Press", "Pages": "210"},
    "parent_asin": "P1",
    "bought_together": None,
    "subtitle": "Paperback",
    "author": {"avatar": "a.jpg", "name": "Maren Osk", "about": ["Writes."]},
}
REVIEW_2023 = {
    "rating": 5.0,
    "title": "Salt",
    "text": "I could smell it.<br />Twice.",
    "images": [{"small_image_url": "s.jpg", "attachment_type": "IMAGE"}],
    "asin": "A1",
    "parent_asin": "P1",
    "user_id": "AE22",
    "timestamp": 1588687728923,
    "helpful_vote": 3,
    "verified_purchase": True,
}
ITEM_2018 = {
    "asin": "0001",
    "title": "Clamp, 12 in.",
    "feature": ["Steel", "12 inch"],
    "description": ["Holds two boards."],
    "price": "$1,012.99",
    "imageURL": ["i.jpg"],
    "imageURLHighRes": ["h.jpg"],
    "also_buy": ["0002"],
    "also_view": [],
    "rank": ["> #1,204 in Tools"],
    "salesRank": {},
    "brand": "\n\n\nby Grip   Works",
    "category": ["Tools", "Clamps", "Tools"],
    "main_cat": "Tools &amp; Home",
    "tech1": "<table></table>",
    "tech2": "",
    "fit": "",
    "similar_item": "",
    "date": "May 4, 2012",
    "details": {"Weight:": "1 pound"},
}
REVIEW_2018 = {
    "overall": 4.0,
    "vote": "1,204",
    "verified": True,
    "reviewTime": "09 13, 2009",
    "reviewerID": "A2",
    "asin": "0001",
    "style": {"Format:": " Hardcover"},
    "reviewerName": "A. Reader",
    "reviewText": "It holds.",
    "summary": "Good",
    "unixReviewTime": 1252800000,
    "image": ["i.jpg"],
}
ITEM_2014 = {
    "asin": "0003",
    "title": "Drum",
    "description": "Don't drop it.",
    "price": 3.17,
    "imUrl": "http://x/i.jpg",
    "related": {"also_bought": ["1"], "also_viewed": [], "bought_together": ["2"]},
    "salesRank": {"Toys & Games": 211836},
    "brand": "Coxlures",
    "categories": [["Music", "Drums"], ["Music", "Toys"]],
}
REVIEW_2014 = {
    "reviewerID": "A2",
    "asin": "0003",
    "reviewerName": "J.",
    "helpful": [2, 3],
    "reviewText": "Loud.",
    "overall": 5.0,
    "summary": "Loud",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
BUSINESS = {
    "business_id": "-b_1",
    "name": 'The "Tern" Diner',
    "address": "1 Quay",
    "city": "Tampa ",
    "state": "FL",
    "postal_code": "33602",
    "latitude": 27.9,
    "longitude": -82.4,
    "stars": 3.5,
    "review_count": 22,
    "is_open": 0,
    "attributes": {
        "RestaurantsTakeOut": "True",
        "BikeParking": "False",
        "WiFi": "u'free'",
        "Alcohol": "'none'",
        "NoiseLevel": "None",
        "RestaurantsPriceRange2": "2",
        "Ambience": "{'romantic': False, 'casual': True, u'classy': True, 'hipster': None}",
        "GoodForMeal": "{'lunch': False}",
        "Music": "{broken",
    },
    "categories": "Diners, Breakfast & Brunch,  Restaurants",
    "hours": {"Monday": "8:0-22:0"},
}
YELP_REVIEW = {
    "review_id": "r1",
    "user_id": "_u1",
    "business_id": "-b_1",
    "stars": 4,
    "useful": 1,
    "funny": 0,
    "cool": 0,
    "text": "Good pie.\n\nGood view.",
    "date": "2016-03-09 10:30:00",
}
PLAIN_ITEM = {"item_id": 17, "title": "T", "description": "D", "categories": ["A"], "brand": "B"}
PLAIN_REVIEW = {
    "user_id": 5,
    "item_id": 17,
    "rating": "4.5",
    "timestamp": "2016-03-09",
    "text": "X",
}

BOOK = {
    "isbn": "0312853122",
    "text_reviews_count": "1",
    "series": [],
    "country_code": "US",
    "language_code": "eng",
    "popular_shelves": [
        {"count": "30", "name": "to-read"},
        {"count": "3", "name": "science-fiction"},
        {"count": "12", "name": "sea-stories"},
        {"count": "5", "name": "owned-books"},
        {"count": "1", "name": "favorites"},
        {"count": "1", "name": "2013-reads"},
    ],
    "average_rating": "4.00",
    "similar_books": ["1"],
    "description": "An orchard by the sea.",
    "format": "Paperback",
    "authors": [{"author_id": "604031", "role": ""}],
    "publisher": "Tern",
    "num_pages": "256",
    "publication_year": "1984",
    "image_url": "i.jpg",
    "book_id": "5333265",
    "ratings_count": "3",
    "work_id": "5400751",
    "title": "The Salt &amp; Pepper Orchard",
    "title_without_series": "The Salt & Pepper Orchard",
}
BOOK_REVIEW = {
    "user_id": "8842281e",
    "book_id": "5333265",
    "review_id": "dfdbb7b0",
    "rating": 4,
    "review_text": "I could smell it.",
    "date_added": "Thu Mar 22 18:30:23 -0700 2012",
    "date_updated": "Fri Mar 23 09:00:00 -0700 2012",
    "read_at": "",
    "started_at": "",
    "n_votes": 0,
    "n_comments": 0,
}
ATOMIC_ITEM = {
    "item_id": "1",
    "movie_title": ["Toy", "Story"],
    "release_year": "1995",
    "class": ["Animation", "Comedy"],
}
ATOMIC_REVIEW = {"user_id": "u", "item_id": "1", "rating": 3.0, "timestamp": 881250949.0}

PUBLISHED: dict[str, tuple[Format, dict[str, Any], dict[str, Any]]] = {
    "amazon-2023": (AMAZON_2023, ITEM_2023, REVIEW_2023),
    "amazon-2018": (AMAZON_2018, ITEM_2018, REVIEW_2018),
    "amazon-2014": (AMAZON_2014, ITEM_2014, REVIEW_2014),
    "yelp": (YELP, BUSINESS, YELP_REVIEW),
    "goodreads": (GOODREADS, BOOK, BOOK_REVIEW),
    "recbole": (recbole(), ATOMIC_ITEM, ATOMIC_REVIEW),
    "plain": (plain(), PLAIN_ITEM, PLAIN_REVIEW),
}
IDS = {"book_id", "parent_asin", "asin", "business_id", "item_id", "reviewerID", "user_id"}
RATINGS = {"rating", "overall", "stars"}
TIMES = {"date_added", "date_updated", "timestamp", "unixReviewTime", "reviewTime", "date"}


def item(form: Format, row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return Item.model_validate(storable(form.item(row | changes))).model_dump()


def review(form: Format, row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return Review.model_validate(form.review(row | changes)).model_dump()


def test_amazon_2023() -> None:
    assert item(AMAZON_2023, ITEM_2023) == {
        "item_id": "P1",
        "title": "The Salt & Pepper Orchard",
        "description": "An orchard by the sea.\nWith <b>maps</b>.\nLarge print.",
        "categories": ["Books", "Fiction", "Sea Stories"],
        "brand": "Maren Osk (Author)",
        "main_category": "Books",
        "subtitle": "Paperback",
        "author": "Maren Osk",
        "price": 12.99,
        "average_rating": 4.4,
        "rating_number": 120,
    }
    assert review(AMAZON_2023, REVIEW_2023) == {
        "user_id": "AE22",
        "item_id": "P1",
        "rating": 5.0,
        "timestamp": 1588687728,
        "title": "Salt",
        "text": "I could smell it.\nTwice.",
    }


def test_amazon_2023_without_what_is_often_missing() -> None:
    bare = item(AMAZON_2023, {"parent_asin": "P1"})
    assert bare.keys() == item(AMAZON_2023, ITEM_2023).keys()  # the same artifact, the same keys
    assert [value for value in bare.values() if value] == ["P1"]
    nulls = dict.fromkeys(ITEM_2023) | {"parent_asin": None, "asin": "A1", "main_category": "Books"}
    assert item(AMAZON_2023, nulls)["item_id"] == "A1"
    assert item(AMAZON_2023, nulls)["categories"] == ["Books"]
    for details in ({"Brand": "Tern"}, '{"Brand": "Tern"}'):  # JSON Lines, Parquet
        assert item(AMAZON_2023, ITEM_2023, store=None, details=details)["brand"] == "Tern"
    for nothing in (None, "", "{", "[]", 3):
        assert item(AMAZON_2023, ITEM_2023, store=None, details=nothing)["brand"] == ""
    assert item(AMAZON_2023, ITEM_2023, author="Maren Osk", price="None")["author"] == "Maren Osk"
    assert item(AMAZON_2023, ITEM_2023, description="One text.", features=None)["description"] == (
        "One text."
    )


def test_amazon_2023_reviews_by_asin_and_old_time_name() -> None:
    row = {name: value for name, value in REVIEW_2023.items() if name != "timestamp"}
    old = review(AMAZON_2023, row, parent_asin=None, sort_timestamp=1588687728923)
    assert (old["item_id"], old["timestamp"]) == ("A1", 1588687728)


def test_amazon_2018() -> None:
    assert item(AMAZON_2018, ITEM_2018) == {
        "item_id": "0001",
        "title": "Clamp, 12 in.",
        "description": "Holds two boards.\nSteel\n12 inch",
        "categories": ["Tools", "Clamps"],
        "brand": "Grip Works",
        "main_category": "Tools & Home",
        "price": 1012.99,
    }
    assert review(AMAZON_2018, REVIEW_2018) == {
        "user_id": "A2",
        "item_id": "0001",
        "rating": 4.0,
        "timestamp": 1252800000,
        "title": "Good",
        "text": "It holds.",
    }


def test_amazon_2018_mess() -> None:
    assert (
        item(AMAZON_2018, ITEM_2018, title="var aPageStart = (new Date()).getTime();")["title"]
        == ""
    )
    assert item(AMAZON_2018, ITEM_2018, price=".a-box-inner{color:#fff}")["price"] is None
    assert item(AMAZON_2018, ITEM_2018, category=[])["categories"] == ["Tools & Home"]
    rating_only = {key: REVIEW_2018[key] for key in ("overall", "reviewerID", "asin", "reviewTime")}
    assert review(AMAZON_2018, rating_only) == review(AMAZON_2018, REVIEW_2018) | {
        "title": "",
        "text": "",
    }


def test_amazon_2014_metadata_are_python_literals(tmp_path: Path) -> None:
    path = tmp_path / "meta_Drums.json"
    path.write_text(f"{ITEM_2014!r}\n")
    [(_, row)] = read_rows(path, Refusals(), python_literals=AMAZON_2014.python_literals)
    assert ast.literal_eval(repr(row)) == ITEM_2014
    assert item(AMAZON_2014, row) == {
        "item_id": "0003",
        "title": "Drum",
        "description": "Don't drop it.",
        "categories": ["Music", "Drums", "Toys"],
        "brand": "Coxlures",
        "main_category": "",
        "price": 3.17,
    }
    assert review(AMAZON_2014, REVIEW_2014)["timestamp"] == 1252800000


def test_yelp() -> None:
    assert item(YELP, BUSINESS) == {
        "item_id": "-b_1",
        "title": 'The "Tern" Diner',
        "description": "restaurants take out; wi fi: free; restaurants price range2: 2; "
        "ambience: casual, classy; music: {broken",
        "categories": ["Diners", "Breakfast & Brunch", "Restaurants"],
        "brand": "",
        "city": "Tampa",
        "state": "FL",
        "price_range": 2,
        "average_rating": 3.5,
        "rating_number": 22,
    }
    assert review(YELP, YELP_REVIEW) == {
        "user_id": "_u1",
        "item_id": "-b_1",
        "rating": 4.0,
        "timestamp": 1457519400,
        "title": "",
        "text": "Good pie.\n\nGood view.",
    }


def test_yelp_of_other_years() -> None:
    old = item(
        YELP,
        BUSINESS,
        categories=["Diners", "Restaurants"],
        attributes={
            "Take-out": True,
            "Price Range": 1,
            "Ambience": {"casual": True, "loud": False},
        },
    )
    assert old["categories"] == ["Diners", "Restaurants"]
    assert old["price_range"] == 1
    assert old["description"] == "take-out; price range: 1; ambience: casual"
    for written in (repr, json.dumps):  # as tables of the data set have it
        assert item(YELP, BUSINESS, attributes=written(BUSINESS["attributes"])) == (
            item(YELP, BUSINESS)
        )
    empty = item(YELP, BUSINESS, categories=None, attributes=None, hours=None)
    assert (empty["categories"], empty["description"], empty["price_range"]) == ([], "", None)
    assert review(YELP, YELP_REVIEW, date="2011-04-19")["timestamp"] == 1303171200


def test_goodreads() -> None:
    assert item(GOODREADS, BOOK) == {
        "item_id": "5333265",
        "title": "The Salt & Pepper Orchard",
        "description": "An orchard by the sea.",
        "categories": ["science fiction", "sea stories"],
        "brand": "Tern",
        "author": "",
        "language": "eng",
        "year": 1984,
        "pages": 256,
        "average_rating": 4.0,
        "rating_number": 3,
    }
    assert review(GOODREADS, BOOK_REVIEW) == {
        "user_id": "8842281e",
        "item_id": "5333265",
        "rating": 4.0,
        "timestamp": 1332466223,
        "title": "",
        "text": "I could smell it.",
    }
    with pytest.raises(LeftOut, match="without a rating"):
        review(GOODREADS, BOOK_REVIEW, rating=0)
    named = item(GOODREADS, BOOK, authors=[{"name": "Maren Osk"}], popular_shelves=None)
    assert (named["author"], named["categories"]) == ("Maren Osk", [])


def test_recbole(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n186\t242\tgood\t891717742\n"
    )
    (tmp_path / "x.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\tyear:token\n"
        '242\tThe "Tern" Diner\tDrama Sea-Story\t2.5\t1997\n'
    )
    refusals = Refusals()
    sources = ([tmp_path / "x.inter"], [tmp_path / "x.item"])
    prepare(Dataset(format_named("recbole"), *sources), tmp_path / "out", refusals)
    [line] = (tmp_path / "out" / "items.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "item_id": "242",
        "title": 'The "Tern" Diner',
        "description": "",
        "categories": ["Drama", "Sea-Story"],
        "brand": "",
        "price": 2.5,
        "year": "1997",
    }
    [line] = (tmp_path / "out" / "reviews.jsonl").read_text().splitlines()
    assert json.loads(line)["timestamp"] == 881250949
    assert refusals.sentences[0].startswith(f"{tmp_path / 'x.inter'}:3: rating: ")


@pytest.mark.parametrize(
    "written", [["'Sea", "Stories',", "'Books'"], ["Sea", "Stories,", "Books"], ["Sea-Stories"]]
)
def test_categories_of_recbole(written: list[str]) -> None:
    found = item(recbole(), {"item_id": "1", "categories": written})["categories"]
    assert found in (["Sea Stories", "Books"], ["Sea-Stories"])
    named = recbole({"items.title": "headline", "item_id": "business_id"})
    row = {"business_id": "1", "headline": ["A", "B"], "name": ["C"]}
    assert (item(named, row)["title"], item(named, row)["name"]) == ("A B", "C")


def test_plain_keeps_the_callers_own_fields_and_reads_csv_lists() -> None:
    for written in (["A", "B"], '["A", "B"]', "A|B"):
        found = item(plain(), PLAIN_ITEM, categories=written, price=3.5, shelf={"row": 2})
        assert found == {
            "item_id": "17",
            "title": "T",
            "description": "D",
            "categories": ["A", "B"],
            "brand": "B",
            "price": 3.5,
            "shelf": {"row": 2},
        }
    assert item(plain(), PLAIN_ITEM, categories="[broken")["categories"] == ["[broken"]
    assert review(plain(), PLAIN_REVIEW) == {
        "user_id": "5",
        "item_id": "17",
        "rating": 4.5,
        "timestamp": 1457481600,
        "title": "",
        "text": "X",
    }


def test_plain_with_other_column_names() -> None:
    form = plain({"item_id": "sku", "user_id": "who", "title": "name"})
    assert item(form, {"sku": 1, "item_id": 2, "name": "N"}) == {
        "item_id": "1",
        "title": "N",
        "description": "",
        "categories": [],
        "brand": "",
    }
    found = review(form, {"sku": 1, "who": "u", "rating": 1, "timestamp": 1})
    assert (found["user_id"], found["item_id"]) == ("u", "1")
    with pytest.raises(InputError, match="there is no field 'sku'"):
        plain({"sku": "item_id"})


@pytest.mark.parametrize("name", FORMATS)
def test_without_id_rating_or_time_there_is_no_record(name: str) -> None:
    form, item_row, review_row = PUBLISHED[name]
    no_ids: list[Any] = [None, "", " ", [], {}, "a\nb", "x" * 600, "\ud800"]
    for broken in no_ids:
        with pytest.raises(ValueError, match="item_id"):
            item(form, item_row, **dict.fromkeys(IDS & item_row.keys(), broken))
    no_numbers: list[Any] = [None, "x", [], math.nan, math.inf]
    for names in (RATINGS, TIMES):
        for broken in no_numbers:
            with pytest.raises(ValueError, match=r"rating|timestamp"):
                review(form, review_row, **dict.fromkeys(names & review_row.keys(), broken))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def check(make: Callable[..., dict[str, Any]], form: Format, row: dict[str, Any]) -> None:
    try:
        found = make(form, row)
    except (ValueError, LeftOut):
        return
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


@given(st.sampled_from(sorted(PUBLISHED)), st.data())
def test_no_row_kills_the_run(name: str, data: st.DataObject) -> None:
    form, item_row, review_row = PUBLISHED[name]
    for make, row in ((item, item_row), (review, review_row)):
        changes = data.draw(st.dictionaries(st.sampled_from(sorted(row)), JSON, max_size=4))
        check(make, form, row | changes)
