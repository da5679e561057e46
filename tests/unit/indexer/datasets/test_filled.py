"""Tables that people fill in: each row is read or refused."""

from pathlib import Path

import pytest

from indexer.artifacts.lines import Refusals
from indexer.datasets.filled import filled_rows
from p4r_qdrant.errors import InputError

HEAD = "id,decision,remark"


def read(path: Path, content: str | bytes) -> tuple[list[dict[str, str]], Refusals]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refusals = Refusals()
    rows = filled_rows(path, ("id", "decision"), HEAD.split(","), refusals, "p4r x")
    return [row for _, row in rows], refusals


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('1,approve,"good, she said', "would swallow the record on line 3"),
        ("1,approve,good, really", "more fields than the header"),
        ('1,approve,"the "best", one"', "quotes"),
    ],
)
def test_a_row_that_cannot_be_right_costs_itself_alone(row: str, says: str, tmp_path: Path) -> None:
    rows, refusals = read(tmp_path / "t.csv", f"{HEAD}\n{row}\n2,reject,no\n")
    assert rows == [{"id": "2", "decision": "reject", "remark": "no"}]
    assert says in refusals.sentences[0]
    assert "t.csv:2" in refusals.sentences[0]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_write(separator: str, tmp_path: Path) -> None:
    text = f'{HEAD}\n1,approve,"two\nlines"\n,,\n2,,\'=1+1\n'.replace(",", separator)
    rows, refusals = read(tmp_path / "t.csv", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert rows == [
        {"id": "1", "decision": "approve", "remark": "two\nlines"},
        {"id": "2", "remark": "=1+1"},
    ]
    assert (refusals.total, refusals.notes) == (0, {})


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    _, refusals = read(tmp_path / "t.csv", f"{HEAD},remarks\n1,approve,,why\n2,reject,,why\n")
    assert "column 'remarks', which is not read" in refusals.notes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no column 'id'"),
        ("id,remark\n", "no column 'decision'"),
        ("id,remark\n1,x\n", "p4r x did not make this table"),
        (f"{HEAD},decision\n1,approve,,reject\n", "two columns are named 'decision'"),
        (f"{HEAD}\n1,approve,\n".encode("utf-16"), "UTF-16"),
        ('[{"id": 1}]', "JSON array"),
    ],
)
def test_another_file_is_refused(content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path / "t.csv", content)
