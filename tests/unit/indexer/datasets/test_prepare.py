"""From published files to artifacts: whole or not at all, the same each time."""

import gzip
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.datasets.formats import FORMATS, format_named
from indexer.datasets.prepare import Dataset, PrepareReport, prepare
from indexer.datasets.selection import Selection
from indexer.datasets.store import (
    ITEM_UNUSED,
    NOT_IN_CORE,
    NOT_SAMPLED,
    OTHER_ITEM,
    REPEATED_ITEM,
    REPEATED_REVIEW,
    UNKNOWN_ITEM,
    Store,
)
from p4r_qdrant.errors import InputError, StorageFullError
from tests.support.progress import RecordedProgress

PLAIN = FORMATS["plain"]


def write(path: Path, rows: Iterable[Any]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def review(user: str, item: str, timestamp: Any, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "rating": 5, "timestamp": timestamp, **more}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def pairs(folder: Path) -> list[tuple[str, str]]:
    return [(one["user_id"], one["item_id"]) for one in read(folder, REVIEWS)]


class Case:
    """A folder with sources, prepared with the plain format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.refusals = Refusals()

    def run(
        self, reviews: Iterable[Any], items: Iterable[Any] | None = None, **selection: Any
    ) -> PrepareReport:
        sources = [write(self.folder / "r.jsonl", reviews)]
        others = [] if items is None else [write(self.folder / "i.jsonl", items)]
        chosen = Selection(**selection)
        return prepare(
            Dataset(PLAIN, sources, others), self.output, self.refusals, selection=chosen
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_three_files(case: Case) -> None:
    report = case.run(
        [
            review("v", "b", 1_400_000_000_500, text="Late & <i>new</i>", verified=True),
            review("u", "c", 1_300_000_003),
            review("u", "b", 1_300_000_002),
            review("u", "a", 1_300_000_003, title="T"),
        ],
        [{"item_id": one, "title": one.upper(), "price": 3} for one in "bxca"],
    )
    assert read(case.output, ITEMS) == [
        {
            "item_id": one,
            "title": one.upper(),
            "description": "",
            "categories": [],
            "brand": "",
            "price": 3,
        }
        for one in "abc"
    ]
    assert pairs(case.output) == [("u", "b"), ("u", "a"), ("u", "c"), ("v", "b")]
    assert read(case.output, REVIEWS)[-1] == {
        "user_id": "v",
        "item_id": "b",
        "rating": 5.0,
        "timestamp": 1_400_000_000,
        "title": "",
        "text": "Late & <i>new</i>",
    }
    assert read(case.output, SPLITS) == [
        {"user_id": "u", "test_item": "c", "valid_item": "a", "tie": True}
    ]
    assert report.written == {ITEMS: 3, REVIEWS: 4, SPLITS: 1}
    assert report.left_out == {ITEM_UNUSED: 1}
    assert not case.refusals.total


def test_of_repeated_pairs_the_newest_stays_and_of_items_the_first(case: Case) -> None:
    report = case.run(
        [
            review("u", "a", 3, text="new"),
            review("u", "a", 1, text="old"),
            review("v", "a", 2, text="one"),
            review("v", "a", 2, text="the later line"),
        ],
        [{"item_id": "a", "title": "first"}, {"item_id": "a", "title": "second"}],
    )
    assert [one["text"] for one in read(case.output, REVIEWS)] == ["the later line", "new"]
    assert [one["title"] for one in read(case.output, ITEMS)] == ["first"]
    assert report.left_out == {REPEATED_REVIEW: 2, REPEATED_ITEM: 1}


@pytest.mark.parametrize("keep", [True, False])
def test_reviews_of_unknown_items_are_kept_or_counted(case: Case, keep: bool) -> None:
    rows = [review("u", "a", 1), review("u", "ghost", 2), review("v", "ghost", 3)]
    report = case.run(rows, [{"item_id": "a", "title": "A"}], unknown_items=keep)
    if keep:
        assert [one["item_id"] for one in read(case.output, ITEMS)] == ["a", "ghost"]
        assert read(case.output, ITEMS)[1]["title"] == ""
        assert not report.left_out
    else:
        assert pairs(case.output) == [("u", "a")]
        assert report.left_out == {UNKNOWN_ITEM: 2}


def test_without_an_items_file_all_items_are_known_by_their_reviews(case: Case) -> None:
    case.run([review("u", "b", 1), review("u", "a", 1)])
    assert [one["item_id"] for one in read(case.output, ITEMS)] == ["a", "b"]


def test_city_and_category(tmp_path: Path) -> None:
    businesses = write(
        tmp_path / "business.json",
        [
            {"business_id": "1", "name": "A", "city": "Tampa", "categories": "Bars, Restaurants"},
            {"business_id": "2", "name": "B", "city": "tampa ", "categories": "restaurants"},
            {"business_id": "3", "name": "C", "city": "Tampa Bay", "categories": "Restaurants"},
            {"business_id": "4", "name": "D", "city": "Tampa", "categories": "Pet Restaurants"},
            {"business_id": "5", "name": "E", "city": None, "categories": None},
        ],
    )
    reviews = write(
        tmp_path / "review.json",
        [
            {"user_id": "u", "business_id": str(n), "stars": 3, "date": "2016-03-09"}
            for n in range(1, 7)
        ],
    )
    report = prepare(
        Dataset(FORMATS["yelp"], [reviews], [businesses]),
        tmp_path / "out",
        Refusals(),
        selection=Selection(
            cities=("TAMPA", "Reno"), categories=("Restaurants",), unknown_items=True
        ),
    )
    assert pairs(tmp_path / "out") == [("u", "1"), ("u", "2")]
    assert report.left_out == {OTHER_ITEM: 3, UNKNOWN_ITEM: 1, ITEM_UNUSED: 3}


PAIRS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdef")), min_size=1, max_size=30
)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.integers(1, 3), st.none() | st.integers(1, 6))
def test_what_is_written_is_a_k_core_and_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    k: int,
    users: int | None,
) -> None:
    case = Case(tmp_path_factory.mktemp("case"))
    reviews = [review(user, item, n) for n, (user, item) in enumerate(rows)]
    try:
        report = case.run(reviews, k_core=k, users=users)
    except InputError as error:
        assert "no interaction is left" in str(error)  # noqa: PT017 - it may also go well
        assert not case.output.exists()
        return
    written = pairs(case.output)
    assert all(
        sum(other[side] == one[side] for other in written) >= k
        for one in written
        for side in (0, 1)
    )
    assert users is None or len({user for user, _ in written}) <= users
    assert {one["item_id"] for one in read(case.output, ITEMS)} == {item for _, item in written}
    assert len(written) + report.left_out.total() == len(rows)
    assert report.left_out.keys() <= {REPEATED_REVIEW, NOT_IN_CORE, NOT_SAMPLED}


def test_the_order_of_the_lines_does_not_matter(case: Case) -> None:
    rows = [review(user, item, ord(user) % 3) for user in "uvwxyz" for item in "abcd"]
    texts = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        case.run(rows, users=3, seed=7)
        texts.append([(case.output / name).read_bytes() for name in (ITEMS, REVIEWS, SPLITS)])
    assert texts[0] == texts[1] == texts[2]


def test_broken_lines_are_told_and_do_not_stop_the_run(case: Case) -> None:
    report = case.run(
        [
            "{broken",
            review("", "a", 1),
            review("u", "a", "yesterday"),
            review("u", "a", 1, rating="five"),
            review("u", "a", 1),
        ],
        [{"title": "no id"}, {"item_id": "a"}],
    )
    assert report.written[REVIEWS] == 1
    assert case.refusals.counts == {"broken line": 1, "broken review": 3, "broken item": 1}
    told = [one.split(": ")[:2] for one in case.refusals.sentences]
    files = {"i": case.folder / "i.jsonl", "r": case.folder / "r.jsonl"}
    assert told == [
        [f"{files['i']}:1", "item_id"],
        [f"{files['r']}:1", "is not JSON"],
        [f"{files['r']}:2", "user_id"],
        [f"{files['r']}:3", "timestamp"],
        [f"{files['r']}:4", "rating"],
    ]


def test_nothing_left_says_why(case: Case) -> None:
    with pytest.raises(InputError) as raised:
        case.run([review("u", "a", 1), review("u", "a", None)], k_core=2)
    assert "1 broken review, 1 interaction outside the k-core" in str(raised.value)
    assert f"{case.folder / 'r.jsonl'}:2: timestamp: is missing" in str(raised.value)
    assert sorted(one.name for one in case.folder.iterdir()) == ["r.jsonl"]


def test_a_source_that_breaks_off_leaves_nothing(case: Case) -> None:
    path = case.folder / "r.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(review("u", "a", 1)).encode())[:-4])
    with pytest.raises(InputError, match="cut short"):
        prepare(Dataset(PLAIN, [path], []), case.output, case.refusals)
    assert [one.name for one in case.folder.iterdir()] == [path.name]


def test_a_folder_that_is_there_keeps_its_other_files(case: Case) -> None:
    case.output.mkdir()
    for name in (ITEMS, "reviews.parquet", "summaries.jsonl"):
        (case.output / name).write_text("old")
    case.run([review("u", "a", 1)])
    assert sorted(one.name for one in case.output.iterdir()) == sorted(
        [ITEMS, REVIEWS, SPLITS, "summaries.jsonl"]
    )
    assert read(case.output, ITEMS)[0]["item_id"] == "a"
    with pytest.raises(InputError):
        case.run(["{"])
    assert read(case.output, ITEMS)[0]["item_id"] == "a"


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_read(case: Case) -> None:
    case.output.write_text("a file")
    with pytest.raises(InputError, match="cannot be made or written"):
        prepare(Dataset(PLAIN, [case.folder / "none"], []), case.output, case.refusals)


def test_a_full_disk_is_told_as_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Store, "relate", full)
    with pytest.raises(StorageFullError, match="TMPDIR"):
        case.run([review("u", "a", 1)])
    assert not case.output.exists()


def test_several_files_and_progress(tmp_path: Path) -> None:
    sources = [
        write(tmp_path / f"{n}.jsonl", [review(f"u{n}", "a", line) for line in range(1100)])
        for n in range(2)
    ]
    seen = RecordedProgress()
    prepare(Dataset(PLAIN, sources, []), tmp_path / "out", Refusals(), progress=seen)
    assert sum(seen.counts) == 2200
    assert len(seen.counts) < 10
    assert len(pairs(tmp_path / "out")) == 2


def test_formats_have_names_and_plain_has_columns() -> None:
    assert format_named("yelp") is FORMATS["yelp"]
    found = format_named("plain", ["item_id=sku", "title=a=b"]).item({"sku": "1", "a=b": "T"})
    assert (found["item_id"], found["title"]) == ("1", "T")
    for name, columns, problem in (
        ("amazon", [], "choose amazon-2023, amazon-2018"),
        ("yelp", ["item_id=sku"], "not for yelp"),
        ("plain", ["item_id"], "'item_id' names no column"),
        ("plain", ["sku=item_id"], "no field 'sku'"),
    ):
        with pytest.raises(InputError, match=problem):
            format_named(name, columns)


def test_selection_that_cannot_split() -> None:
    with pytest.raises(InputError, match="2 interactions"):
        Selection(min_interactions=1)


PROGRAM = """
import sys
from pathlib import Path
from indexer.artifacts.folder import Refusals
from indexer.datasets.formats import FORMATS
from indexer.datasets.prepare import Dataset, prepare
print("begun", flush=True)
source, output = map(Path, sys.argv[1:])
prepare(Dataset(FORMATS["plain"], [source]), output, Refusals())
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX thing")
def test_killed_and_run_again_it_gives_the_same_files(tmp_path: Path) -> None:
    rows = [review(f"u{n % 997}", f"i{n % 89}", n % 5000, text="x" * 50) for n in range(20_000)]
    source = write(tmp_path / "r.jsonl", rows)
    command = [sys.executable, "-c", PROGRAM, str(source)]
    names = (ITEMS, REVIEWS, SPLITS)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = [(tmp_path / "whole" / name).read_bytes() for name in names]
    output = tmp_path / "killed"
    for wait in (0.05, 0.15, 0.4, 0.6):
        with subprocess.Popen([*command, str(output)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        if output.exists():  # it was done before: then it must be whole
            assert [(output / name).read_bytes() for name in names] == whole
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    assert [(output / name).read_bytes() for name in names] == whole
