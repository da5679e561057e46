"""Explanations side by side: balanced, blind, and what raters' verdicts come to."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.lines import Refusals
from indexer.peers.side_by_side import (
    CRITERIA,
    Choosing,
    Example,
    examples,
    sheet_csv,
    sheets,
)
from indexer.peers.side_by_side_page import page
from indexer.peers.verdicts import Key, is_filled, read_verdicts
from p4r_qdrant.errors import InputError
from tests.support.html_page import HOSTILE, Page
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP

SYSTEMS = ("ours", "rated", "xrec")


def example(number: int, **texts: str) -> Example:
    own = {name: f"{name} says {number}" for name in SYSTEMS} | texts
    return Example(f"u{number}", f"i{number}", ["- a book"], f"Book {number}", own)


def test_every_system_stands_in_every_place_equally_often() -> None:
    found = [example(number) for number in range(9)]
    made = sheets(found, 3, 0)
    for sheet in made:
        for place in range(3):
            assert set(Counter(order[place] for order in sheet.orders).values()) == {3}
    first = [order for sheet in made for order in sheet.orders[:1]]
    assert len({tuple(order) for order in first}) == 3, "raters see other orders"


def test_a_sheet_hides_the_systems_and_computes_nothing() -> None:
    found = [example(0, ours="=HYPERLINK(1)", rated="-1+2"), example(1)]
    [sheet] = sheets(found, 1, 0)
    text = sheet_csv(found, sheet)
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == ["example", "chosen before", "offered", "A", "B", "C", *CRITERIA]
    assert {rows[0][letter] for letter in "ABC"} == {"'=HYPERLINK(1)", "'-1+2", "xrec says 0"}
    assert not any(name in rows[0] for name in SYSTEMS)


def test_the_page_is_blind_or_names_the_systems() -> None:
    found = [example(0, ours=HOSTILE), example(1, ours="calm", rated="wide", xrec="short")]
    [sheet] = sheets(found, 1, 0)
    blind, named = (Page(page(found, sheet, blind=one)) for one in (True, False))
    for one in (blind, named):
        one.check_harmless()
        one.check_tables()
        assert "calm" in one.text
    assert "xrec" not in blind.text.replace("xrec says 0", "")
    assert "xrec" in named.text.replace("xrec says 0", "")


def explained(tmp_path: Path, name: str, items: dict[str, list[str]]) -> Path:
    rows = [
        {
            "user_id": user,
            "results": [{"item_id": item, "explanation": f"{name} on {item}"} for item in own],
        }
        for user, own in items.items()
    ]
    return write(tmp_path, f"{name}.jsonl", rows)


def test_examples_are_explained_by_all(material: Any, tmp_path: Path) -> None:
    users = [one["user_id"] for one in read(BOOKSHOP / "splits.jsonl")][:6]
    both = {user: ["salt-orchard", "one-ring-one-pan"] for user in users}
    files = {
        "ours": explained(tmp_path, "ours", both),
        "xrec": explained(tmp_path, "xrec", {u: ["one-ring-one-pan"] for u in users[:4]}),
    }
    found = examples(material, files, Choosing(), Refusals(), Counter())
    assert {one.user_id for one in found} == set(users[:4])
    for one in found:
        assert one.item_id == "one-ring-one-pan"
        assert one.texts == {name: f"{name} on one-ring-one-pan" for name in files}
        title = material.candidate(one.item_id).title
        assert title in one.item
        assert not any(title in line for line in one.history)
    fewer = examples(material, files, Choosing(most=2), Refusals(), Counter())
    assert [one.user_id for one in fewer] == [one.user_id for one in found][:2]
    files["none"] = explained(tmp_path, "none", {users[5]: ["salt-orchard"]})
    with pytest.raises(
        InputError, match="no user has an item that all of ours, xrec, none explain"
    ):
        examples(material, files, Choosing(), Refusals(), Counter())
    with pytest.raises(InputError, match="name 2 to 6 files"):
        examples(material, {}, Choosing(), Refusals(), Counter())


def filled(
    tmp_path: Path, found: list[Example], key: Key, choices: dict[str, list[str]]
) -> dict[str, Path]:
    """Sheets in which each rater calls these systems the best, one for each example."""
    paths = {}
    for rater, best in choices.items():
        sheet = next(one for one in sheets(found, 3, 0) if str(one.rater) == rater)
        rows = list(csv.DictReader(io.StringIO(sheet_csv(found, sheet))))
        for row, order, system in zip(rows, sheet.orders, best, strict=True):
            cell = {"tie": " Tie", "": "", "?": "both"}.get(system)
            if cell is None:
                cell = f"{'ABC'[list(order).index(system)].lower()}."
            row |= dict.fromkeys(CRITERIA, cell)
        path = tmp_path / f"rater-{rater}.csv"
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        paths[rater] = path
    return paths


def test_verdicts_by_hand(tmp_path: Path) -> None:
    found = [example(number) for number in range(4)]
    key = Key.of(found, sheets(found, 3, 0))
    choices = {
        "1": ["ours", "ours", "xrec", "tie"],
        "2": ["ours", "rated", "xrec", "tie"],
        "3": ["ours", "xrec", "xrec", "ours"],
    }
    verdicts = read_verdicts(key, filled(tmp_path, found, key, choices), Refusals())
    assert (verdicts.raters, verdicts.missing) == (3, 0)
    for one in verdicts.criteria:
        counts = {name: share and share.count for name, share in one.best.items()}
        assert counts == {"ours": 1, "rated": 0, "xrec": 1}
        assert one.ties == 2, "three answers, and most call the last one a tie"
        assert one.examples == 4
        # Units: ooo, orx, xxx, tto. Coincidences: o 3, x 3; of 12 values o 5, x 4, r 1, t 2.
        observed = 1 - (3 + 3 + 2 * 0.5) / 12
        expected = 1 - (5 * 4 + 4 * 3 + 2 * 1) / (12 * 11)
        assert one.alpha == pytest.approx(1 - observed / expected)


def test_full_agreement_has_alpha_one(tmp_path: Path) -> None:
    found = [example(number) for number in range(3)]
    key = Key.of(found, sheets(found, 3, 0))
    same = ["ours", "xrec", "rated"]
    sheets_of = filled(tmp_path, found, key, {"1": same, "2": same})
    assert read_verdicts(key, sheets_of, Refusals()).criteria[0].alpha == pytest.approx(1.0)
    alone = read_verdicts(key, {"1": sheets_of["1"]}, Refusals())
    assert alone.criteria[0].alpha is None


def test_empty_cells_are_missing_and_odd_ones_refused(tmp_path: Path) -> None:
    found = [example(number) for number in range(3)]
    key = Key.of(found, sheets(found, 3, 0))
    refusals = Refusals()
    paths = filled(tmp_path, found, key, {"1": ["ours", "", "?"]})
    verdicts = read_verdicts(key, paths, refusals)
    assert verdicts.missing == 2 * len(CRITERIA)
    assert refusals.total == len(CRITERIA)
    assert "'both' is none of A, B, C and tie" in refusals.sentences[0]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_sheet_is_read_as_any_spreadsheet_saves_it(separator: str, tmp_path: Path) -> None:
    """With other separators, CRLF, a byte order mark, rows in another order, and empty rows."""
    found = [
        example(number, ours=f"A line\u2028separator; {number}\x0band more") for number in range(4)
    ]
    key = Key.of(found, sheets(found, 3, 0))
    best = {"1": ["ours", "xrec", "rated", "tie"], "2": ["ours", "xrec", "xrec", "ours"]}
    paths = filled(tmp_path, found, key, best)
    expected = read_verdicts(key, paths, Refusals())
    for path in paths.values():
        head, *rows = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\r\n")
            writer.writerows([head, *reversed(rows), [""] * len(head)])
    refusals = Refusals()
    assert read_verdicts(key, paths, refusals) == expected
    assert refusals.total == 0


def test_a_row_twice_is_refused_and_alpha_needs_two_verdicts(tmp_path: Path) -> None:
    found = [example(number) for number in range(2)]
    key = Key.of(found, sheets(found, 2, 0))
    paths = filled(tmp_path, found, key, {"1": ["ours", "xrec"], "2": ["ours", ""]})
    [lone, *_] = read_verdicts(key, paths, Refusals()).criteria
    assert lone.alpha is None, "one example has two verdicts, which are the same"
    lines = paths["1"].read_text("utf-8-sig")
    twice = lines + lines[lines.index("\n") + 1 :]
    paths["1"].write_text(twice.replace(found[0].name, "nobody", 1))
    refusals = Refusals()
    read_verdicts(key, paths, refusals)
    first, second = sorted(refusals.sentences)
    assert "rater-1.csv:2 is of 'nobody', which the key does not know" in first
    assert f"is of {found[1].name!r}, as {paths['1']}:" in second
    paths["1"].write_bytes(lines.encode() + b"\xe4")
    assert is_filled(paths["1"])
    refusals = Refusals()
    read_verdicts(key, paths, refusals)
    assert "is not UTF-8" in refusals.sentences[-1]


def test_files_of_something_else_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("[]")
    with pytest.raises(InputError, match="is no key of"):
        Key.read(tmp_path / "key.json")
    found = [example(0)]
    key = Key.of(found, sheets(found, 1, 0))
    (tmp_path / "key.json").write_text(key.json_text())
    assert Key.read(tmp_path / "key.json") == key
    for field, wrong in (
        ("orders", {"1": []}),
        ("orders", [1]),
        ("systems", None),
        ("examples", 3),
    ):
        (tmp_path / "key.json").write_text(json.dumps(key.model_dump() | {field: wrong}))
        with pytest.raises(InputError, match="is no key of"):
            Key.read(tmp_path / "key.json")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="p4r peers compare did not make this table"):
        read_verdicts(key, {"1": tmp_path / "x.csv"}, Refusals())
