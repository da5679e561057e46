"""A user leaves what was made from an artifact folder: lists, judgments, records, texts."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.derived import derived_from, noted
from indexer.evaluation.experiment.stages import LOCK, locked
from indexer.ledger import Ledger, request_key
from indexer.updates.erasing.results import Gone, erase_from_results, without
from p4r_qdrant.errors import InputError
from tests.support.jsonl import read, write
from tests.support.stored_words import files_with

GONE = Gone({"bob"}, {"pan"})


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"users": ["bob", "eve"], "n": 20}, {"users": ["eve"], "n": 20}),
        ({"examples": [{"user": "bob"}, {"user": "eve"}]}, {"examples": [{"user": "eve"}]}),
        ([{"about": {"user_id": "bob"}, "x": 1}], []),
        ([{"about": {"item_id": "pan"}}, {"item_id": "pan"}], [{"item_id": "pan"}]),
        ({"bob": "bob is a name here"}, {"bob": "bob is a name here"}),
        (
            {"personas": [{"extractive": True, "evidence": [one]} for one in ("bob", "eve")]},
            {"personas": [{"extractive": True, "evidence": ["eve"]}]},
        ),
        (
            [{"extractive": True, "item_id": "pan"}, {"extractive": False, "item_id": "pan"}],
            [{"extractive": False, "item_id": "pan"}],
        ),
        ({"deep": [{"a": {"b": {"user_id": "bob"}}}, 1]}, {"deep": [1]}),
    ],
)
def test_what_names_the_user_goes_up_to_the_list_that_it_is_in(value: Any, left: Any) -> None:
    assert without(value, GONE) == left


def test_lines_records_texts_and_answers_lose_the_user(tmp_path: Path) -> None:
    for name in ("lists", "vectors"):
        (tmp_path / name).mkdir()
    lines = [{"user_id": user, "results": [{"item_id": "pan"}]} for user in ("bob", "eve")]
    write(tmp_path / "lists", "ease-0.jsonl", [*lines, "{broken"])
    with gzip.open(tmp_path / "lists" / "bpr-0.jsonl.gz", "wt") as packed:
        packed.write("".join(json.dumps(one) + "\n" for one in lines))
    write(tmp_path / "lists", "others.jsonl", ['{"user_id":  "eve"}'])
    (tmp_path / "vectors" / "f.texts.jsonl").write_text('"bob said so"\n')
    (tmp_path / "vectors" / "f.f32").write_bytes(b"1234")
    (tmp_path / "results.json").write_text(json.dumps({"examples": [{"user": "bob"}], "n": 1}))
    (tmp_path / "report.html").write_text("bob")
    (tmp_path / ".judgments.jsonl.ab12cd34.unfinished").write_text("bob")
    with Ledger(tmp_path / "ledger") as ledger:
        for user in ("bob", "eve"):
            about = {"user_id": user, "item_id": "kettle"}
            key = request_key(template="t", content=user, model="m")
            ledger.put("judgments", key, {"about": about})
    place = erase_from_results(tmp_path, GONE)
    assert place.problem is None
    assert files_with("bob", tmp_path) == []
    assert place.removed == {
        "lines of ease-0.jsonl": 1,
        "lines of bpr-0.jsonl.gz": 1,
        "files of texts": 1,
        "entries of results.json": 1,
        "pages": 1,
        "answers on judgments": 1,
    }
    assert (tmp_path / "lists" / "ease-0.jsonl").read_text().endswith("{broken\n")
    assert (tmp_path / "lists" / "others.jsonl").read_text() == '{"user_id":  "eve"}\n'
    assert json.loads((tmp_path / "results.json").read_text()) == {"examples": [], "n": 1}
    assert not +erase_from_results(tmp_path, GONE).removed


def test_one_file_of_rankings(tmp_path: Path) -> None:
    rows = [{"user_id": user, "personalized": True} for user in ("bob", "eve")]
    path = write(tmp_path, "rankings.jsonl", rows)
    assert erase_from_results(path, GONE).removed == {"lines of rankings.jsonl": 1}
    assert read(path) == rows[1:]


def test_what_is_in_use_or_not_there_is_told(tmp_path: Path) -> None:
    with locked(tmp_path):
        problem = erase_from_results(tmp_path, GONE).problem
    assert "another experiment is writing" in str(problem)
    assert (tmp_path / LOCK).exists()
    with Ledger(tmp_path / "ledger"):
        problem = erase_from_results(tmp_path, GONE).problem
    assert "another run is writing" in str(problem)
    [sentence] = erase_from_results(tmp_path / "moved", GONE).remains
    assert "moved is not there: erase from where it was moved to (--results)" in sentence


def test_a_folder_of_results_is_noted_unless_its_making_is_undone(tmp_path: Path) -> None:
    artifacts, output = tmp_path / "a", tmp_path / "out"
    artifacts.mkdir()
    with pytest.raises(InputError), noted(artifacts, output):
        raise InputError("no key")
    assert list(artifacts.iterdir()) == []
    for _ in range(2):
        with noted(artifacts, output):
            output.mkdir(exist_ok=True)
    assert derived_from(artifacts) == [output.resolve()]
    output.rmdir()
    with noted(artifacts, tmp_path / "next"):
        (tmp_path / "next").mkdir()
    assert derived_from(artifacts) == [(tmp_path / "next").resolve()]
    for broken in "{", "7", '{"of": 1, "folders": []}', '{"folders": []}', "[3]":
        (artifacts / "derived.json").write_text(broken)
        with pytest.raises(InputError, match=r"derived.json is broken: write the folders"):
            derived_from(artifacts)


def test_a_copy_does_not_reach_the_results_of_the_original(tmp_path: Path) -> None:
    artifacts, output, copy = tmp_path / "shop", tmp_path / "results", tmp_path / "copy"
    for folder in artifacts, output:
        folder.mkdir()
    with noted(artifacts, output):
        (output / "results.json").write_text("{}")
    shutil.copytree(artifacts, copy)
    assert derived_from(copy) == []
    own = tmp_path / "own"
    own.mkdir()
    with noted(copy, own):
        (own / "results.json").write_text("{}")
    assert derived_from(copy) == [own.resolve()]
    assert derived_from(artifacts) == [output.resolve()]


def test_a_folder_that_was_moved_still_reaches_its_results(tmp_path: Path) -> None:
    artifacts, output = tmp_path / "shop", tmp_path / "results"
    for folder in artifacts, output:
        folder.mkdir()
    with noted(artifacts, output):
        (output / "results.json").write_text("{}")
    moved = artifacts.rename(tmp_path / "moved")
    assert derived_from(moved) == [output.resolve()]
    (moved / "derived.json").write_text(f'["{output}"]')  # as earlier releases wrote it
    assert derived_from(moved) == [output]
