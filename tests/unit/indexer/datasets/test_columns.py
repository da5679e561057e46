"""Columns that are missing, named otherwise, or of another file; own fields and their types."""

import json
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS
from indexer.checking import check_files
from indexer.datasets.columns import nearest
from indexer.datasets.delimited import Layout
from indexer.datasets.formats import format_named
from indexer.datasets.own_fields import NUMBERS_AS_TEXT
from indexer.datasets.prepare import Dataset, prepare
from p4r_qdrant.errors import InputError

GOOD = "user_id,item_id,rating,timestamp\nu,a,5,1\nu,b,4,2\n"


class Case:
    """A data set as texts of CSV, prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusals = Refusals()
        self.reviews = folder / "r.csv"
        self.items = folder / "i.csv"

    def run(
        self,
        reviews: str,
        items: str | None = None,
        form: str = "plain",
        columns: tuple[str, ...] = (),
        **layouts: Layout,
    ) -> None:
        self.reviews.write_text(reviews)
        if items is not None:
            self.items.write_text(items)
        form_of = format_named(form, columns)
        dataset = Dataset(form_of, [self.reviews], [self.items] if items else [], **layouts)
        prepare(dataset, self.folder / "out", self.refusals)

    def failure(self, *arguments: Any, **more: Any) -> str:
        with pytest.raises(InputError) as raised:
            self.run(*arguments, **more)
        assert not (self.folder / "out").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def written(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out" / name).read_text().splitlines()]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_missing_columns_are_told_with_those_found_and_the_nearest(case: Case) -> None:
    assert case.failure("userId;movieId;stars;date\nu;a;5;2020-01-01\n") == (
        f"{case.reviews} has no column user_id, item_id, rating, timestamp; its columns are "
        "userId, movieId, stars, date (separated by ';'), "
        "reviews need user_id, item_id, rating, timestamp; "
        "the nearest: --column user_id=userId --column item_id=movieId --column rating=stars "
        "--column timestamp=date"
    )
    assert "has no column rating; its columns are user_id, item_id, x, timestamp" in case.failure(
        "user_id,item_id,x,timestamp\nu,a,5,1\n"
    )


def test_a_file_without_a_header_is_known_by_its_numbers(case: Case) -> None:
    said = case.failure("u,a,5,1700000000\nu,b,4,1700000001\n")
    assert "looks like a record: name the columns with --columns" in said
    said = case.failure(GOOD, "a,12.5\nb,3\n")
    assert "looks like a record: name the columns with --item-columns" in said
    case.run(
        "u,a,5,1700000000\nu,b,4,1700000001\n",
        "a,12.5\nb,3\n",
        review_layout=Layout(columns=("user_id", "item_id", "rating", "timestamp")),
        item_layout=Layout(columns=("item_id", "price")),
    )
    assert [one["price"] for one in case.written(ITEMS)] == [12.5, 3.0]


def test_the_columns_of_another_format_and_files_that_are_swapped(case: Case) -> None:
    amazon = "reviewerID,asin,overall,unixReviewTime\nu,a,5,1\n"
    assert "these are columns of the format amazon-2018" in case.failure(amazon)
    assert "these are columns of the format plain" in case.failure(GOOD, form="yelp")
    said = case.failure("item_id,title\na,A\n", GOOD)
    assert said.endswith("are the files of items and reviews swapped?")


def test_json_rows_are_checked_too(case: Case) -> None:
    path = case.folder / "r.jsonl"
    path.write_text('{"user": "u", "sku": "a", "rating": 5, "time": 1}\n' * 3)
    with pytest.raises(InputError, match="--column user_id=user --column item_id=sku"):
        prepare(Dataset(format_named("plain"), [path]), case.folder / "out", Refusals())


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("user_id", ["UserID", "x"], "UserID"),
        ("user_id", ["usr_id"], "usr_id"),
        ("timestamp", ["time_stamp"], "time_stamp"),
        ("timestamp", ["Date", "text"], "Date"),
        ("rating", ["overall", "text"], "overall"),
        ("rating", ["text"], None),
        ("item_id", [], None),
    ],
)
def test_the_nearest_name(wanted: str, found: list[str], expected: str | None) -> None:
    assert nearest(wanted, found) == expected


REVIEWS_WITH_NAME = "user_id,item_id,rating,timestamp,name\nu,a,5,1,Bob\nu,b,4,2,Bob\n"
ITEMS_WITH_NAME = "item_id,name\na,Kettle\nb,Pot\n"


@pytest.mark.parametrize(
    ("columns", "items", "reviews"),
    [
        (("items.title=name",), "Kettle", ""),
        (("reviews.title=name",), "", "Bob"),
        (("title=name",), "Kettle", "Bob"),
        (("items.title=name", "title=x"), "Kettle", ""),
    ],
)
def test_a_column_can_be_named_for_one_file(
    columns: tuple[str, ...], items: str, reviews: str, case: Case
) -> None:
    with_x = REVIEWS_WITH_NAME.replace("timestamp,", "timestamp,x,").replace(",Bob", ",,Bob")
    case.run(with_x, ITEMS_WITH_NAME, columns=columns)
    assert case.written(ITEMS)[0]["title"] == items
    assert case.written(REVIEWS)[0]["title"] == reviews
    assert any("name it for one of them" in one for one in case.refusals.notes) == (
        columns == ("title=name",)
    )


def test_columns_that_are_not_read_are_noted(case: Case) -> None:
    reviews = "user_id,item_id,rating,timestamp,text,headline,votes\nu,a,5,1,T,H,3\n"
    case.run(reviews, columns=("title=headline",))
    assert [*case.refusals.notes] == ["columns of reviews that are not read: votes"]
    case.refusals.notes.clear()
    case.run(GOOD)
    assert not case.refusals.notes


def test_a_named_column_that_is_nowhere(case: Case) -> None:
    said = case.failure(GOOD, ITEMS_WITH_NAME, columns=("items.title=nam",))
    assert said == "no row of items has the column 'nam': items.title=nam"
    said = case.failure(GOOD, ITEMS_WITH_NAME, columns=("title=nam",))
    assert said == "no row of items or reviews has the column 'nam': title=nam"
    case.run(REVIEWS_WITH_NAME.replace("item_id", "sku"), columns=("item_id=sku",))
    for wrong in ("items.rating=x", "other.title=x", ".title=x", "items.=x"):
        with pytest.raises(InputError, match="there is no field"):
            format_named("plain", [wrong])


def test_own_fields_of_csv_have_types(case: Case) -> None:
    case.run(
        GOOD,
        "item_id,title,price,stock,rate,new,zip,size,tag,list\n"
        "a,1984,12.50,3,1e-3,true,02134,10,x,\"$1,299.00\"\n"
        "b,7,,4,-2,No,12345,M,N/A,\n",
    )  # fmt: skip
    own = {
        "price": [12.5, None],
        "stock": [3, 4],
        "rate": [0.001, -2.0],
        "new": [True, False],
        "zip": ["02134", "12345"],
        "size": ["10", "M"],
        "tag": ["x", "N/A"],
        "list": [1299.0, None],
    }
    rows = case.written(ITEMS)
    assert {name: [row[name] for row in rows] for name in own} == own
    assert [type(row["stock"]) for row in rows] == [int, int]
    assert [row["title"] for row in rows] == ["1984", "7"]
    assert "own fields read as numbers: price, stock, rate, list" in case.refusals.notes
    assert "own fields read as truth values: new" in case.refusals.notes


def test_a_field_that_is_nearly_a_number_is_told(case: Case) -> None:
    case.run(GOOD, "item_id,price\na,1\nb,2\nc,about 3\n")
    assert [row["price"] for row in case.written(ITEMS)] == ["1", "2"]
    [said] = [one for one in case.refusals.notes if "stays text" in one]
    assert said.startswith(f"own field 'price' stays text, for 'about 3' ({case.items}:4) is no")


def test_texts_of_json_stay_texts_and_are_told(case: Case) -> None:
    case.reviews.write_text(GOOD)
    path = case.folder / "i.jsonl"
    path.write_text('{"item_id": "a", "price": "1"}\n{"item_id": "b", "price": "2"}\n')
    dataset = Dataset(format_named("plain"), [case.reviews], [path])
    prepare(dataset, case.folder / "out", case.refusals)
    assert [row["price"] for row in case.written(ITEMS)] == ["1", "2"]
    assert [*case.refusals.notes] == [f"{NUMBERS_AS_TEXT}: price"]
    assert check_files({ITEMS: path}, max_personas=9).notes == {f"{NUMBERS_AS_TEXT} (price)": 1}
