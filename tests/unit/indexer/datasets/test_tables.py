"""Parquet and data frames, in and out; the sentence where pyarrow is missing."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.datasets import tables
from indexer.datasets.formats import FORMATS
from indexer.datasets.prepare import Dataset, prepare
from p4r_qdrant.errors import InputError, MissingExtraError

PLAIN = FORMATS["plain"]
ROWS = [
    {"user_id": "u", "item_id": item, "rating": 4.5, "timestamp": 1_400_000_000 + n, "text": "ü"}
    for n, item in enumerate("abc")
]


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in (ITEMS, REVIEWS, SPLITS)]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_without_pyarrow_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda _: None)
    source = tmp_path / "r.parquet"
    source.touch()
    plain_source = lines(tmp_path / "r.jsonl", ROWS)
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[data\]"):
        prepare(Dataset(PLAIN, [source], []), tmp_path / "out", Refusals())
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[data\]"):
        prepare(Dataset(PLAIN, [plain_source], []), tmp_path / "out", Refusals(), parquet=True)
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[data\]"):
        tables.read_table(plain_source)
    assert not (tmp_path / "out").exists()


def test_out_as_parquet_and_in_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source = lines(tmp_path / "r.jsonl", ROWS)
    items = lines(
        tmp_path / "i.jsonl",
        [
            {
                "item_id": "a",
                "title": "A",
                "categories": ["x", "y"],
                "price": None,
                "more": {"k": 1},
            },
            {"item_id": "b", "price": 3, "more": [1]},
            {"item_id": "c", "price": 2.5},
        ],
    )
    first, second = tmp_path / "first", tmp_path / "second"
    prepare(Dataset(PLAIN, [source], [items]), first, Refusals(), parquet=True)
    refusals = Refusals()
    prepare(
        Dataset(PLAIN, [first / "reviews.parquet"], [first / "items.parquet"]), second, refusals
    )
    assert not refusals.total
    assert content(first)[1:] == content(second)[1:]
    prices = tables.read_table(first / ITEMS)
    assert prices.column("price").to_pylist() == [None, 3.0, 2.5]
    assert prices.column("categories").to_pylist() == [["x", "y"], [], []]
    assert prices.column("more").to_pylist() == ['{"k": 1}', "[1]", None]
    prepare(Dataset(PLAIN, [source], [items]), first, Refusals())
    assert not list(first.glob("*.parquet"))  # those of the earlier run would say otherwise


def test_data_frames_go_in(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    prepare(Dataset(PLAIN, [lines(tmp_path / "r.jsonl", ROWS)], []), tmp_path / "lines", Refusals())
    times = [datetime.fromtimestamp(int(str(row["timestamp"])), UTC) for row in ROWS]
    for zone in (None, "UTC", "+05:30"):
        for unit in ("s", "ms", "us", "ns"):
            column = pa.array(times, pa.timestamp(unit, zone))
            table = pa.Table.from_pylist(ROWS).set_column(3, "timestamp", column)
            output = tmp_path / f"{unit}{zone}"
            prepare(Dataset(PLAIN, [table], []), output, Refusals())
            assert content(output) == content(tmp_path / "lines")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_pandas_and_polars_go_in(library: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frames = pytest.importorskip(library)
    prepare(Dataset(PLAIN, [lines(tmp_path / "r.jsonl", ROWS)], []), tmp_path / "lines", Refusals())
    frame = frames.DataFrame(ROWS)
    if library == "pandas":
        frame = frame[::-1]  # an index of its own, which is no field
        frame["timestamp"] = frames.to_datetime(frame["timestamp"], unit="s", utc=True)
    prepare(Dataset(PLAIN, [frame], []), tmp_path / "frame", Refusals())
    assert content(tmp_path / "frame") == content(tmp_path / "lines")


def test_rows_of_a_frame_are_told_by_number(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    refusals = Refusals()
    table = pa.Table.from_pylist([*ROWS, ROWS[0] | {"timestamp": None}])
    prepare(Dataset(PLAIN, [table], []), tmp_path / "out", refusals)
    assert refusals.sentences == ["data frame, row 4: timestamp: is missing"]


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "r.parquet"
    for text in ("", "no parquet"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"r\.parquet cannot be read"):
            prepare(Dataset(PLAIN, [path], []), tmp_path / "out", Refusals())
    with pytest.raises(InputError, match="cannot be read"):
        prepare(Dataset(PLAIN, [tmp_path / "none.parquet"], []), tmp_path / "out", Refusals())
