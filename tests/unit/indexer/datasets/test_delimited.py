"""Text with separators as people have it: open quotes, other separators, no header."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import TOO_LONG
from indexer.datasets import delimited
from indexer.datasets.delimited import (
    EMPTY_END,
    ESCAPED_QUOTES,
    NO_NAME,
    SEVERAL_LINES,
    SHORT_ROW,
    STRAY_QUOTES,
    Layout,
    names_of,
)
from indexer.datasets.sources import read_rows
from p4r_qdrant.errors import InputError

HEADER = "user_id,item_id,rating,timestamp,text"
COLUMNS = tuple(HEADER.split(","))


class Read:
    """What was read of a file: the texts of its last column, what was refused, what was noted."""

    def __init__(self, path: Path, content: str | bytes, layout: Layout | None = None) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        refusals = Refusals()
        self.rows = [row for _, row in read_rows(path, refusals, layout=layout or Layout())]
        self.refused = [one.removeprefix(f"{path}:") for one in refusals.sentences]
        self.noted = {
            what: (count, where.removeprefix(f"{path}:"))
            for what, (count, where) in refusals.notes.items()
        }

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


def reviews(texts: list[str], separator: str = ",") -> str:
    rows = [HEADER.replace(",", separator)]
    for n, text in enumerate(texts):
        rows.append(separator.join([f"u{n}", "i1", "4", f"170000000{n}", text]))
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize(
    "others",
    [
        ["Too loud", "fine"],  # the quote is never closed
        ["Too loud", '"Great" they said'],
        ["Too loud", '"Great, they said"'],
        ["Too loud", 'Best, said "her"'],
        ['"Two\nlines"', "fine"],
    ],
)
def test_a_quote_that_is_not_closed_costs_its_own_row_alone(
    others: list[str], separator: str, tmp_path: Path
) -> None:
    others = [one.replace(",", separator) for one in others]
    found = Read(tmp_path / "r.csv", reviews(["good", '"unclosed', *others], separator))
    assert found.column("user_id")[0] == "u0"
    assert set(found.column("user_id")[1:]) <= {"u2", "u3"}
    assert found.refused[0] == (
        "3: a quote opens a field that is not closed on its line and would swallow the record on "
        "line 4; close or double it"
    )


def test_the_first_row_may_be_the_one_with_the_open_quote(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(['"unclosed', "a", 'b "c"', '"d"']))
    assert found.column("text") == ["a", 'b "c"', "d"]
    assert len(found.refused) == 1


def test_at_the_end_of_the_file_nothing_is_swallowed(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(["a", '"unclosed']))
    assert found.column("text") == ["a"]
    assert found.refused == [
        "3: a quote opens a field that is not closed on its line; close or double it"
    ]


def test_without_numbers_records_are_told_by_their_form(tmp_path: Path) -> None:
    found = Read(tmp_path / "i.csv", 'item_id,title\na,"Unclosed\nb,Second\nc,Third"\nd,Fourth\n')
    assert found.column("item_id") == ["b", "c", "d"]
    assert found.refused[0].startswith("2: a quote opens")


def test_texts_that_run_across_lines_are_read_and_counted(tmp_path: Path) -> None:
    texts = [
        '"Two\nlines, ""quoted"""',
        '"A list:\n\n1, 2, 3, 4, 5\n- a, b, c, d, e\nend"',
        "plain",
        '"Windows\r\nlines, four, commas, in, it"',
    ]
    found = Read(tmp_path / "r.csv", reviews(texts))
    assert found.column("text") == [
        'Two\nlines, "quoted"',
        "A list:\n\n1, 2, 3, 4, 5\n- a, b, c, d, e\nend",
        "plain",
        "Windows\nlines, four, commas, in, it",
    ]
    assert found.refused == []
    assert found.noted == {SEVERAL_LINES: (3, "2")}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'"He said \"wow\"' + '\nand left"', 'He said "wow"\nand left'),
        ('"He said "wow" and\nleft"', 'He said "wow" and\nleft'),
        ('"One\nhe said "wow" and, well\nleft"', 'One\nhe said "wow" and, well\nleft'),
    ],
)
def test_odd_quotes_in_texts_that_run_across_lines(written: str, read: str, tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(["before", written, "after"]))
    assert found.column("text") == ["before", read, "after"]
    assert SEVERAL_LINES in found.noted


@pytest.mark.parametrize("following", [" Too loud", '"Great" they said', 'a "b', "x\ty"])
def test_a_record_is_known_whatever_its_text_is(following: str, tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(['"unclosed', following, 'the "end"', '"x"']))
    assert found.column("text") == [following, 'the "end"', "x"]
    assert "swallow the record on line 3" in found.refused[0]


def test_a_row_that_comes_after_a_text_of_many_lines_is_told_by_its_place(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(['"a\nb"', "c,d", "e"]))
    assert found.column("text") == ["a\nb", "e"]
    assert found.refused == ["4: has more fields than the header"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('He said "wow" and left', 'He said "wow" and left'),
        ('5" wide', '5" wide'),
        ('"Great" they said', '"Great" they said'),
        ('"He said "wow" and left, then"', 'He said "wow" and left, then'),
        (r'"He said \"wow\", then left"', 'He said "wow", then left'),
        (r'"\"Wow\""', '"Wow"'),
        (r'"a \"b, c\" d"', 'a "b, c" d'),
        ('"ends with a backslash\\"', "ends with a backslash\\"),
        ('"He said ""wow"""', 'He said "wow"'),
        ('""', ""),
        ("'single', no", None),
    ],
)
def test_quotes_inside_texts(written: str, read: str | None, tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(["before", written, "after"]))
    assert found.column("text") == ["before", *([] if read is None else [read]), "after"]
    assert len(found.refused) == (read is None)


def test_odd_quotes_are_counted(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", reviews(['"a" b', r'"a \"b\""', '"c" d']))
    assert found.noted == {STRAY_QUOTES: (2, "2"), ESCAPED_QUOTES: (1, "3")}


def test_quotes_in_text_with_tabs_are_letters(tmp_path: Path) -> None:
    texts = ['"Best kettle, said my aunt', "Too loud", '"Great" they said', "fine", 'an "aside']
    found = Read(tmp_path / "r.tsv", reviews(texts, "\t"))
    assert found.column("text") == texts
    assert found.refused == []


def test_quoted_text_with_tabs_is_read_too(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.tsv", reviews(['"Two\nlines"', '"a\tb"', '"say ""no"""'], "\t"))
    assert found.column("text") == ["Two\nlines", "a\tb", 'say "no"']


@pytest.mark.parametrize("name", ["r.csv", "r.txt", "r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_the_header(separator: str, name: str, tmp_path: Path) -> None:
    found = Read(tmp_path / name, reviews(["one", "two"], separator))
    assert found.column("text") == ["one", "two"]


def test_a_separator_may_be_named(tmp_path: Path) -> None:
    for delimiter, mark in (("tab", "\t"), ("\\t", "\t"), ("::", "::"), ("^", "^"), (" ", " ")):
        content = reviews(["one", "two"], mark)
        found = Read(tmp_path / "r.dat", content, Layout(delimiter))
        assert found.column("text") == ["one", "two"]
    found = Read(tmp_path / "r.csv", "sep=;\n" + reviews(["one"], ";"))  # as Excel writes it
    assert found.column("text") == ["one"]
    with pytest.raises(InputError, match="cannot separate"):
        Layout('"')


def test_a_file_without_a_header(tmp_path: Path) -> None:
    content = reviews(["one", "two"]).partition("\n")[2]
    for name in ("r.csv", "r.data"):
        found = Read(tmp_path / name, content, Layout(columns=COLUMNS))
        assert found.column("user_id") == ["u0", "u1"]
    with pytest.raises(InputError, match="is a header"):
        Read(tmp_path / "r.csv", reviews(["one"]), Layout(columns=COLUMNS))
    with pytest.raises(InputError, match="'a' is named twice"):
        Layout(columns=("a", "a"))
    assert names_of(" a, b ") == ("a", "b")
    assert names_of("") == ()


def test_headers_that_cannot_be_read(tmp_path: Path) -> None:
    for content, said in (
        (b"a,b,a\n1,2,3\n", "two columns are named 'a'"),
        (b'a,"b\n1,2\n', "a quote is not closed"),
        (b"a,\xff\n1,2\n", "not UTF-8"),
        (b'{"a": 1}\n{"a": 2}\n', "is JSON Lines, not CSV"),
        ("a,b\n".encode("utf-16"), "is UTF-16 text"),
    ):
        with pytest.raises(InputError, match=said):
            Read(tmp_path / "r.csv", content)


def test_what_is_odd_and_read_is_noted(tmp_path: Path) -> None:
    found = Read(tmp_path / "r.csv", ",a ,b\n0,1,2\n1,3\n\n")
    assert found.rows == [{"a": "1", "b": "2"}, {"a": "3", "b": None}]
    assert found.noted == {NO_NAME: (1, "1"), SHORT_ROW: (1, "3")}
    assert Read(tmp_path / "r.csv", b"").rows == []
    found = Read(tmp_path / "r.csv", "a,b\n0,1,\n0,1,,\n0,1,,2\n")
    assert found.column("b") == ["1", "1"]
    assert found.noted == {EMPTY_END: (2, "2")}
    assert found.refused == ["4: has more fields than the header"]


def test_typed_headers_make_typed_values(tmp_path: Path) -> None:
    content = 'item_id:token\ttitle:token_seq\tprice:float\tsizes:float_seq\n1\tA "b\t2.5\t1 2\n'
    found = Read(tmp_path / "x.item", content)
    assert found.rows == [{"item_id": "1", "title": ["A", '"b'], "price": 2.5, "sizes": [1.0, 2.0]}]


def test_long_lines_and_long_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_LINE", 200)
    monkeypatch.setattr(delimited, "MOST_LINES", 3)
    found = Read(tmp_path / "r.csv", reviews(["x" * 500, '"a\nb\nc\nd\ne"', "last"]))
    assert found.column("user_id")[-1] == "u2"
    assert found.refused[0] == f"2: {TOO_LONG}"
    assert found.refused[1].startswith("3: a quote opens")


CELLS = st.text(st.sampled_from('ab ,"\\\n'), max_size=12)


@given(texts=st.lists(CELLS, min_size=1, max_size=6))
def test_what_another_program_writes_is_read_or_refused_and_no_row_eats_another(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import csv
    import io

    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(COLUMNS)
    for n, text in enumerate(texts):
        writer.writerow([f"u{n}", "i1", 4, 1700000000 + n, text])
    found = Read(tmp_path_factory.mktemp("csv") / "r.csv", written.getvalue())
    assert found.refused == []
    assert found.column("text") == texts


@given(texts=st.lists(CELLS.map(lambda text: text.replace("\n", " ")), min_size=1, max_size=6))
def test_whatever_the_quotes_are_no_row_holds_another(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = Read(tmp_path_factory.mktemp("csv") / "r.csv", reviews(texts))
    for row in found.rows:
        assert not any(f"170000000{n}" in str(row["text"]) for n in range(6))
    assert len(found.rows) + len(found.refused) == len(texts)
