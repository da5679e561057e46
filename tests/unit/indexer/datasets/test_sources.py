"""Files as they really arrive: compressed or not, with broken lines, cut short."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts import opening
from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import NOT_UTF8
from indexer.datasets.sources import read_rows
from p4r_qdrant.errors import InputError


def read(path: Path, **options: Any) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    refusals = Refusals()
    rows = list(read_rows(path, refusals, **options))
    assert refusals.total == len(refusals.sentences)
    return [(where.removeprefix(str(path)), row) for where, row in rows], [
        one.removeprefix(str(path)) for one in refusals.sentences
    ]


def test_a_broken_line_is_told_by_its_place_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[]\n17\n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"a": 2}'
    )
    rows, refused = read(path)
    assert rows == [(":1", {"a": 1}), (":8", {"a": 2})]
    assert [one.split(": ")[0] for one in refused] == [":3", ":4", ":5", ":6", ":7"]
    assert refused[0].startswith(":3: is not JSON: Expecting value at column")
    assert refused[3:] == [f":6: byte 8 {NOT_UTF8}", ":7: is nested too deep"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl", "a.csv.gz", "a.csv"])
def test_compression_is_seen_from_the_bytes_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = b"a,b\n1,x\n" if "csv" in name else b'{"a": "1", "b": "x"}\n'
    for written in (content, gzip.compress(content)):
        path.write_bytes(written)
        [(_, row)], refused = read(path)
        assert row == {"a": "1", "b": "x"}
        assert not refused


def test_a_file_that_breaks_off_is_no_whole_data_set(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl.gz"
    lines = "".join(json.dumps({"a": n}) + "\n" for n in range(10_000))
    packed = gzip.compress(lines.encode())
    for broken in (packed[: len(packed) // 2], packed[:-9] + b"\0" * 9, packed[:20] + b"\xff" * 99):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="damaged or cut short"):
            read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read(path)


def test_a_line_without_end_is_refused_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_LINE", 20)
    path = tmp_path / "reviews.jsonl"
    long, fits, longer = (json.dumps({"a": "x" * size}) for size in (500, 10, 11))
    path.write_text(f"{long}\n{fits}\n{longer}\n{fits}\n")
    rows, refused = read(path)
    assert [where for where, _ in rows] == [":2", ":4"]
    assert len(refused) == 2
    assert refused[0].startswith(":1: the line is longer than")


def test_python_literals_are_read_where_the_format_has_them(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text(
        "{'asin': '1', 'title': \"It's\", 'price': None, 'd': '\\d'}\n"
        '{"asin": "2", "price": null}\n'
        "{'asin': __import__('os')}\n{'asin': '4'\n"
    )
    rows, refused = read(path, python_literals=True)
    assert [row["asin"] for _, row in rows] == ["1", "2"]
    assert rows[0][1]["title"] == "It's"
    assert [one.split(":")[1] for one in refused] == ["3", "4"]
    assert len(read(path)[0]) == 1


def test_csv_has_quotes_line_breaks_and_broken_rows(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_bytes(
        b"\xef\xbb\xbfuser_id,text\r\n"
        b'u1,"Two\nlines, ""quoted"""\r\n'
        b"u2,a,too many\r\n"
        b"u3,\xff\r\n"
        b"u4\r\n" + "u5,Zürich 書\r\n".encode()
    )
    rows, refused = read(path)
    assert rows == [
        (":2", {"user_id": "u1", "text": 'Two\nlines, "quoted"'}),
        (":6", {"user_id": "u4", "text": None}),
        (":7", {"user_id": "u5", "text": "Zürich 書"}),
    ]
    assert refused == [":4: has more fields than the header", f":5: {NOT_UTF8}"]


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "reviews.tsv"
    path.write_text("a\tb\n1\tx, y\n")
    assert read(path) == ([(":2", {"a": "1", "b": "x, y"})], [])
