"""`p4r review`: flags, states, tables out and in, and what is refused."""

import gzip
import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Result, in_process
from tests.support.jsonl import read
from tests.support.paths import copy_bookshop

Review = Callable[..., Result]
SHOP = ("--artifacts", "shop")


@pytest.fixture
def review(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Review:
    copy_bookshop(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: in_process(monkeypatch, capsys, ("review", *arguments))


def test_from_flags_to_decisions(review: Review, tmp_path: Path) -> None:
    assert "no flags" in review("status", *SHOP).err.lower()
    flagged = review("flag", *SHOP, "--no-encoder")
    assert flagged.code == 0
    assert re.search(r"8\s+complaint", flagged.out)
    done = review("export", *SHOP, "--output", "t.jsonl", "--flag", "complaint")
    assert done.code == 0
    table = tmp_path / "t.jsonl"
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    rows = read(table)
    assert len(rows) == 8
    assert all(one["flags"].startswith("complaint: its reviews") for one in rows)
    rows[0]["decision"], rows[1]["decision"], rows[2]["decision"] = "reject", "lock", "burn"
    table.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    taken = review("import", "t.jsonl", *SHOP, "--by", "Ann")
    assert (taken.code, taken.out) == (2, "2 decisions kept, 0 were there already\n")
    assert "t.jsonl:3: 'burn' is no decision" in taken.err
    status = json.loads(review("status", *SHOP, "--json").out)
    assert status["states"]["rejected"] == status["states"]["locked"] == 1
    assert status["decisions"] == 2
    assert review("export", *SHOP, "--output", "t.jsonl").code == 0, "its own file"
    assert len(read(table)) == 97


def test_a_table_is_no_file_of_somebody_else(review: Review, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    assert "did not write it" in review("export", *SHOP, "--output", "mine.csv").sentence
    assert review("export", *SHOP, "--output", "shop/reviews.jsonl").code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", *SHOP, "--output", "-", "--state", "odd"), "--state is one of"),
        (("status", "--artifacts", "nowhere"), "no artifact folder nowhere"),
        (("import", "nothing.csv", *SHOP), "cannot be read"),
        (("import", "shop", *SHOP), "cannot be read"),
    ],
)
def test_what_is_refused(review: Review, arguments: tuple[str, ...], said: str) -> None:
    result = review(*arguments)
    assert result.code == 2
    assert said in result.sentence


def test_decisions_that_are_no_file(review: Review, tmp_path: Path) -> None:
    (tmp_path / "shop" / "decisions.jsonl").mkdir()
    result = review("status", *SHOP)
    assert result.code == 2
    assert "decisions.jsonl cannot be read" in result.sentence


def test_lines_that_cannot_be_read_are_told(review: Review, tmp_path: Path) -> None:
    with (tmp_path / "shop" / "personas.jsonl").open("a") as file:
        file.write('{"item_id": "half\n')
    for command in (("status",), ("status", "--json"), ("export", "--output", "t.CSV.gz")):
        result = review(*command, *SHOP)
        assert result.code == 2, command
        assert "personas.jsonl:25" in result.err
    assert gzip.decompress((tmp_path / "t.CSV.gz").read_bytes()).startswith(b"item_id,title,")


def test_a_flag_that_nothing_has_is_refused(review: Review, tmp_path: Path) -> None:
    result = review("export", *SHOP, "--output", "t.csv", "--flag", "complaints")
    assert "--flag is one of injection, banned words, complaint" in result.sentence
    assert not (tmp_path / "t.csv").exists()
