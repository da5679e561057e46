"""Tables use the width there is, and a number is never cut or wrapped."""

import re

import pytest

from indexer.terminal.console import out
from indexer.terminal.tables import Column, Table, number, print_fields

NUMBERS = ("0.1234 [0.123, 0.234]", "0.0987", "+0.012 +12% [+0.001, +0.023]", "0.0001")
LABEL = "cold users (1 to 5 training interactions): 1,234"


def metrics(rows: int = 3) -> Table:
    table = Table(
        "2,345 users",
        number("a-long-name-of-a-file-of-lists"),
        number("popularity"),
        number("difference"),
        number("p"),
    )
    for _ in range(rows):
        table.add(LABEL, *NUMBERS)
    return table


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_number_stays_on_one_line(
    width: int, locale: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LC_ALL", locale)
    metrics().print()
    printed = capsys.readouterr().out
    longest = max(len(line.rstrip()) for line in printed.splitlines())
    assert longest <= max(width, 44), "a block is as wide as its longest number"
    for value in NUMBERS if width >= 40 else NUMBERS[1::2]:
        assert printed.count(value) == 3, "whole, on one line"
    assert "1,234" in printed
    assert printed.isascii()


def test_it_is_a_table_where_it_fits_and_blocks_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    metrics(1).print()
    wide = capsys.readouterr().out
    assert re.search(r"^2,345 users.* popularity +difference +p *$", wide, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", "40")
    metrics(1).print()
    narrow = capsys.readouterr().out.splitlines()
    assert narrow[0].startswith("cold users (1 to 5 training")
    assert "  popularity  0.0987" in narrow
    assert "  p  0.0001" in narrow


def test_the_width_is_asked_for_when_something_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in ("50", "90", "0", "wide"):
        monkeypatch.setenv("COLUMNS", width)
        assert out.width == {"50": 50, "90": 90}.get(width, out.width)
    monkeypatch.setenv("COLUMNS", "30")
    out.paragraph("word " * 20)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 30


def test_texts_wrap_between_words_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    table = Table(Column("figure", style="bold"), number("share"), "meaning")
    table.add("distinct names", "12.3% [10%, 15%]", "[b]the share of[/b] distinct names " * 3)
    table.add("", "", "")
    table.print()
    print_fields({"path": "/a" * 60, "empty": "", "count": "1,234"})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 50
    assert "12.3% [10%, 15%]" in printed
    assert printed.count("[b]the") == 3
    assert "".join(printed.split()).count("/a") == 60
    assert "empty" not in printed


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_a_path_stays_on_one_line(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that is wider than the terminal, which then wraps it itself."""
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table(Column("looked at", unbroken=True), number("removed"), "what")
    paths = ["catalogue", "/srv/" + "catalogue/" * 8 + "artifacts"]
    for path in paths:
        table.add(path, "12", "interactions of the users that were erased, and what they wrote")
    table.print()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for path in paths:
        assert [line for line in printed if line.split()[0] == path], printed
    assert max(len(line) for line in printed) <= max(width, len(paths[1]))


def test_an_empty_table_has_its_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Table("step", number("written")).print()
    assert capsys.readouterr().out.split() == ["step", "written"]
