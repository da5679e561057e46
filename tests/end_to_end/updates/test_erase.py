"""`p4r erase`: the items on standard output, the report beside it, or all as JSON."""

import json
from pathlib import Path

from tests.support.command_line import Run
from tests.support.jsonl import read, write
from tests.support.paths import copy_bookshop

USER = "maren-o"


def test_the_report_says_where_it_looked_and_what_remains(p4r: Run, tmp_path: Path) -> None:
    folder = tmp_path / "books"
    copy_bookshop(folder)
    (folder / "notes.json").write_text(json.dumps({"author": USER}))
    rankings = write(tmp_path, "rankings.jsonl", [{"user_id": USER}, {"user_id": "priya-n"}])
    asked = p4r("erase", USER, "--artifacts", "books", "--results", "rankings.jsonl", "--json")
    assert asked.code == 0, asked.err
    told = json.loads(asked.out)
    assert told["complete"]
    assert told["users"] == 1
    assert told["items"]
    assert [one["kind"] for one in told["places"]] == ["artifacts", "results"]
    assert told["places"][0]["removed"]["lines of reviews.jsonl"] == 7
    assert read(rankings) == [{"user_id": "priya-n"}]
    assert "notes.json is no artifact and holds the id of a user: look at it" in asked.err
    assert USER not in (folder / "erasures.jsonl").read_text()

    asked = p4r("erase", "priya-n", "--artifacts", "books", "--results", "rankings.jsonl")
    assert asked.code == 0, asked.err
    items = asked.out.split()
    assert f"{len(items)} items to reason on again" in asked.err
    assert "looked at" in asked.err
    assert "lines of rankings.jsonl" in asked.err
    assert len(read(folder / "erasures.jsonl")) == 2


def test_who_is_nowhere_is_one_sentence(p4r: Run, tmp_path: Path) -> None:
    copy_bookshop(tmp_path / "books")
    asked = p4r("erase", "nobody", "--artifacts", "books")
    assert asked.code == 2
    assert "user 'nobody' is in no file of books; nothing was changed" in asked.err
    assert not (tmp_path / "books" / "erasures.jsonl").exists()
