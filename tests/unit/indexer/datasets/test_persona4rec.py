"""The paper's files, invented in small in both flavours, and the real sample where it is there."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.datasets.persona4rec import convert
from indexer.datasets.persona4rec_files import ImportReport
from p4r_qdrant.errors import InputError, StorageFullError
from p4r_qdrant.records import (
    Alignment,
    Aspects,
    CandidateList,
    Item,
    ItemPersonas,
    Review,
    Split,
    Summary,
)
from tests.support.jsonl import write
from tests.support.paths import ROOT
from tests.support.progress import RecordedProgress

SAMPLE = ROOT.parent / "shared" / "data" / "persona4rec-sample-amazon"
MODELS: dict[str, Any] = {
    "items.jsonl": Item,
    "reviews.jsonl": Review,
    "summaries.jsonl": Summary,
    "aspects.jsonl": Aspects,
    "personas.jsonl": ItemPersonas,
    "alignments.jsonl": Alignment,
    "splits.jsonl": Split,
    "candidates.jsonl": CandidateList,
}

BOOK_REVIEW = {
    "review_id": 1,
    "user_id": "u1",
    "item_id": "B1",
    "rating": 4.0,
    "timestamp": 1606780947726,
    "review_title": "Good",
    "review_text": "Read it\u0007 twice.",
    "extracted_aspects": {
        "category_preference_reason": "The user says so.",
        "category_preference": "Historical Fiction",
        "purchase_purpose_reason": "Nothing is said.",
        "purchase_purpose": "Not mentioned",
        "quality_criteria": None,
        "usage_context": ["evenings", "", "trains"],
    },
}
MEAL_REVIEW = {
    "review_id": "r9",
    "user_id": "d1",
    "business_id": "R1",
    "stars": 5,
    "date": "2019-03-01 12:30:00",
    "review_text": "Noodles!",
    "extracted": {
        "cuisine_category": ["Thai", "Noodles"],
        "visit_purpose": "lunch",
        "service_reason": "x",
        "service": "null",
    },
}


def personas(item: str, count: int = 2, **change: Any) -> dict[str, Any]:
    entry = {
        "Name": "The Reader",
        "Description": "Reads.",
        "Preference_Rationale": "This persona appreciates this item because it is read.",
    }
    return {
        "item_id": item,
        "item_title": "T &amp; U",
        "item_description": ["One.", "", "Two."],
        "personas": [{"ID": f"P{n}", **entry, **change} for n in range(1, count + 1)],
    }


def selection(item: str, chosen: Any, reasoning: str = "", user: Any = "u1") -> dict[str, Any]:
    return {
        "user_id": user,
        "target_item_id": item,
        "selected_persona_id": chosen,
        "selection_reasoning": reasoning,
    }


def run(source: Path) -> tuple[dict[str, list[dict[str, Any]]], ImportReport, Refusals]:
    output = source.parent / "artifacts"
    refusals = Refusals(keep=1000)
    report = convert(source, output, refusals)
    assert sorted(path.name for path in output.iterdir()) == sorted(MODELS)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, model in MODELS.items():
        wrong = Refusals()
        records = [record for _, _, record in read_lines(output / name, model, wrong)]
        assert wrong.total == 0, "our own reader takes every line that was written"
        rows[name] = [json.loads(line) for line in (output / name).read_text().splitlines()]
        assert [one.model_dump(mode="json") for one in records] == rows[name]
        assert len({tuple(row) for row in rows[name]}) <= 1, "the same keys in every line"
        assert report.taken[name] == len(rows[name])
    return rows, report, refusals


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "paper"
    folder.mkdir()
    return folder


# --- both flavours -----------------------------------------------------------------------------


def test_books(source: Path) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW])
    write(source, "2_summary.jsonl", [{"item_id": "B1", "item_title": "T", "item_summary": "S."}])
    write(source, "3_personas.jsonl", [personas("B1", 3)])
    write(source, "4_selected_personas.jsonl", [selection("B1", "P2", "** Because. **Selection")])
    write(source, "gt.jsonl", [{"user_id": "u1", "item_id": "B9"}])
    rows, report, refusals = run(source)
    assert rows["reviews.jsonl"] == [
        {
            "user_id": "u1",
            "item_id": "B1",
            "rating": 4.0,
            "timestamp": 1606780947,
            "title": "Good",
            "text": "Read it twice.",
        }
    ]
    assert rows["aspects.jsonl"] == [
        {
            "item_id": "B1",
            "user_id": "u1",
            "timestamp": 1606780947,
            "rating": 4.0,
            "aspects": {
                "category_preference": "Historical Fiction",
                "purchase_purpose": None,
                "quality_criteria": None,
                "usage_context": "evenings, trains",
            },
        }
    ]
    assert rows["items.jsonl"] == [
        {"item_id": "B1", "title": "T", "description": "", "categories": [], "brand": ""}
    ]
    assert rows["summaries.jsonl"] == [{"item_id": "B1", "summary": "S."}]
    [item] = rows["personas.jsonl"]
    assert [one["persona_id"] for one in item["personas"]] == ["B1_P1", "B1_P2", "B1_P3"]
    assert item["personas"][0] == {
        "persona_id": "B1_P1",
        "name": "The Reader",
        "description": "Reads.",
        "preference_rationale": "This persona appreciates this item because it is read.",
        "evidence": [],
        "extractive": False,
    }
    assert rows["alignments.jsonl"] == [
        {"user_id": "u1", "item_id": "B1", "persona_id": "B1_P2", "justification": "Because."}
    ]
    assert rows["splits.jsonl"] == [
        {"user_id": "u1", "test_item": "B9", "valid_item": None, "tie": False}
    ]
    assert report.repaired == {
        "time stamp in milliseconds": 1,
        "list of values joined": 1,
        "word for nothing taken as null": 1,
    }
    assert refusals.total == 0


def test_restaurants(source: Path) -> None:
    write(source, "1_aspects.jsonl", [MEAL_REVIEW])
    history = {
        "user_id": "d2",
        "reviews": [{**MEAL_REVIEW, "user_id": "d2", "summary": "A place."}],
    }
    write(source, "3.5_history.jsonl", [history])
    rows, report, refusals = run(source)
    assert [(one["user_id"], one["item_id"]) for one in rows["aspects.jsonl"]] == [
        ("d1", "R1"),
        ("d2", "R1"),
    ]
    assert rows["aspects.jsonl"][0]["aspects"] == {
        "cuisine_category": "Thai, Noodles",
        "visit_purpose": "lunch",
        "service": None,
    }
    assert rows["reviews.jsonl"][0]["timestamp"] == 1551443400
    assert rows["reviews.jsonl"][0]["rating"] == 5
    assert rows["summaries.jsonl"] == [{"item_id": "R1", "summary": "A place."}]
    assert report.repaired["time stamp read from text"] == 2
    assert refusals.total == 0


def test_a_restaurants_description_is_its_yelp_record(source: Path) -> None:
    record = {
        "name": "Tern Diner",
        "categories": "Diners, Breakfast & Brunch",
        "city": "Tampa",
        "state": "FL",
        "attributes": {
            "takeout": True,
            "has_tv": False,
            "wifi": "u'free'",
            "price_range": "2",
            "parking": "{'street': True, 'lot': False}",
        },
    }
    head = {"item_id": "R1", "item_title": "Tern Diner", "item_summary": "A diner."}
    told = head | {"item_description": json.dumps(record, indent=2)}
    write(source, "2_summary.jsonl", [told])
    rows, report, refusals = run(source)
    assert rows["items.jsonl"][0] == {
        "item_id": "R1",
        "title": "Tern Diner",
        "description": "takeout; wifi: free; price range: 2; parking: street",
        "categories": ["Diners", "Breakfast & Brunch"],
        "brand": "",
        "city": "Tampa",
        "state": "FL",
        "price_range": 2,
        "average_rating": None,
        "rating_number": None,
    }
    assert report.repaired["description read as a Yelp record"] == 1
    assert refusals.total == 0


@pytest.mark.parametrize("text", ['{"not": "one"}', "{broken", "[1]", '"text"'])
def test_other_descriptions_stay_as_they_are(text: str, source: Path) -> None:
    write(source, "2_summary.jsonl", [{"item_id": "B1", "item_description": text}])
    rows, _, _ = run(source)
    assert rows["items.jsonl"][0]["description"] == text


def test_grouped_reviews_and_personas_with_summaries(source: Path) -> None:
    reviews = [{name: value for name, value in BOOK_REVIEW.items() if name != "item_id"}]
    grouped = {**personas("B1"), "aspects": [*reviews, "odd"], "item_summary": "S1."}
    write(source, "2.5_grouped.jsonl", [grouped])
    told = {"item_id": "B2", "personas": personas("B2", 1, Item_Summary="S2.")["personas"]}
    write(source, "3.5_persona_with_summary.jsonl", [told])
    rows, _, refusals = run(source)
    assert [one["item_id"] for one in rows["reviews.jsonl"]] == ["B1"]
    assert rows["items.jsonl"][0]["description"] == "One., Two."
    assert rows["summaries.jsonl"] == [
        {"item_id": "B1", "summary": "S1."},
        {"item_id": "B2", "summary": "S2."},
    ]
    assert [one["item_id"] for one in rows["personas.jsonl"]] == ["B2"]
    assert refusals.counts == {"broken entry of aspects": 1}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1606780947, 1606780947),
        (1606780947726, 1606780947),
        ("1606780947726", 1606780947),
        (" 1606780947 ", 1606780947),
        ("1606780947.9", 1606780947),
        (1606780947.9, 1606780947),
        ("2020-12-01", 1606780800),
        ("2020-12-01 00:02:27", 1606780947),
        ("2020-12-01T02:02:27+02:00", 1606780947),
        (1606780947726000, 1606780947),
        ("Tue, 01 Dec 2020 00:02:27 GMT", 1606780947),
        (0, 0),
    ],
)
def test_time_stamps(given: Any, seconds: int, source: Path) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW | {"timestamp": given}])
    rows, _, refusals = run(source)
    assert rows["reviews.jsonl"][0]["timestamp"] == seconds
    assert refusals.total == 0


@pytest.mark.parametrize(
    "given",
    [
        *("NaN", "Infinity", "-1e999", "1e300", "-60", "9" * 400, "null", "[1]"),
        *(
            '"yesterday"',
            '"1969-12-31T23:59:00Z"',
            '""',
            '"nan"',
            '"9e999"',
            f'"{"9" * 400}"',
            '"0000-00-00"',
        ),
    ],
)
def test_time_stamps_that_are_none(given: str, source: Path) -> None:
    line = json.dumps(BOOK_REVIEW).replace("1606780947726", given)
    path = write(source, "1_aspects.jsonl", [line, BOOK_REVIEW])
    rows, _, refusals = run(source)
    assert len(rows["reviews.jsonl"]) == 1
    assert refusals.counts["broken reviews.jsonl record"] == 1
    assert refusals.sentences[0].startswith(f"{path}:1: timestamp: ")


# --- what is refused ---------------------------------------------------------------------------


def test_broken_lines_and_records_do_not_stop_the_others(source: Path) -> None:
    nothing = {"extracted_aspects": {"quality_criteria": "N/A", "x_reason": "y"}}
    path = write(
        source,
        "1_aspects.jsonl",
        [
            "{",
            "[]",
            BOOK_REVIEW | {"user_id": None},
            BOOK_REVIEW | {"user_id": "u2", "rating": "four"},
            BOOK_REVIEW | {"user_id": "u3", "extracted_aspects": None},
            BOOK_REVIEW | {"user_id": "u4"} | nothing,
            BOOK_REVIEW | {"user_id": "u4"} | nothing,
            BOOK_REVIEW | {"user_id": ["u5"]},
            BOOK_REVIEW,
            BOOK_REVIEW | {"review_text": "the same again"},
        ],
    )
    rows, report, refusals = run(source)
    assert [one["user_id"] for one in rows["reviews.jsonl"]] == ["u3", "u4", "u1"]
    assert [one["user_id"] for one in rows["aspects.jsonl"]] == ["u1"]
    assert report.left_out == {"aspects all null": 1}
    assert refusals.counts == {
        "broken record": 2,
        "broken reviews.jsonl record": 3,
        "broken aspects.jsonl record": 3,
        "review without aspects": 1,
    }
    for sentence in refusals.sentences:
        assert sentence.startswith(f"{path}:")


@pytest.mark.parametrize(
    "row",
    [
        {"item_id": "B1", "personas": []},
        {"item_id": "B1", "personas": None},
        {"item_id": "B1"},
        {"item_id": None, "personas": personas("x")["personas"]},
        {"item_id": "B1", "personas": [{}]},
        {"item_id": "B1", "personas": ["P1"]},
        personas("B1", 1, ID=None),
        personas("B1", 1, Name=" "),
        personas("B1", 1, Description=["a", "b"]),
    ],
)
def test_personas_that_are_none(row: dict[str, Any], source: Path) -> None:
    path = write(source, "3_personas.jsonl", [row, personas("good")])
    rows, _, refusals = run(source)
    assert [one["item_id"] for one in rows["personas.jsonl"]] == ["good"]
    assert refusals.total >= 1
    assert all(one.startswith(f"{path}:1: ") for one in refusals.sentences)


def test_a_history_without_reviews_is_told(source: Path) -> None:
    path = write(source, "3.5_history.jsonl", [{"user_id": "u"}, {"user_id": "v", "reviews": []}])
    _, _, refusals = run(source)
    assert refusals.sentences == [f"{path}:1: reviews is not a list"]


def test_numbers_are_ids(source: Path) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW | {"user_id": 7, "item_id": 9}])
    write(source, "3_personas.jsonl", [personas("x") | {"item_id": 9}])
    rows, _, _ = run(source)
    assert (rows["reviews.jsonl"][0]["user_id"], rows["reviews.jsonl"][0]["item_id"]) == ("7", "9")
    assert rows["personas.jsonl"][0]["personas"][0]["persona_id"] == "9_P1"


# --- what the judge chose ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "reasoning", "taken"),
    [
        ("P2", "It fits.", "B1_P2"),
        ("B1_P2", "It fits.", "B1_P2"),
        ("P1", "It fits. **Selection:** B1_P3", "B1_P3"),
        ("P1", "It fits. **Selection**: 3. B1_P3 is best", "B1_P3"),
        ("P1", "**Selection:** B1_P2 no: **Selection:** B1_P3", "B1_P3"),
        ("P1", "**Selection:** OTHER_P3", "B1_P1"),
        ("P1", "**Selection:** P3", "B1_P1"),
        ("P2", "B1_P3 is good too.", "B1_P2"),
        (None, "It fits. **Selection:** B1_P3", "B1_P3"),
        (None, "", None),
        ("", "none of them", None),
    ],
)
def test_the_judges_own_words_count(
    chosen: Any, reasoning: str, taken: str | None, source: Path
) -> None:
    write(source, "4_selected_personas.jsonl", [selection("B1", chosen, reasoning)])
    rows, report, refusals = run(source)
    assert [one["persona_id"] for one in rows["alignments.jsonl"]] == ([taken] if taken else [])
    assert refusals.total == (0 if taken else 1)
    repaired = report.repaired["persona taken from the judge's own words"]
    assert repaired == (1 if taken == "B1_P3" else 0)


@pytest.mark.parametrize("truth", ["gt.jsonl", "3.5_gt.jsonl"])
@pytest.mark.parametrize(("user", "item"), [("u1", "B1"), (7, 9), ("7", 9), (7, "9")])
def test_an_alignment_with_the_held_out_item_leaks(
    user: Any, item: Any, truth: str, source: Path
) -> None:
    write(source, truth, [{"user_id": user, "item_id": item}])
    write(
        source,
        "4_selected_personas.jsonl",
        [
            selection(item, "P1", user=user),
            selection(str(item), "P1", user=str(user)),
            selection("other", "P1", user=user),
            selection(item, "P1", user="somebody else"),
        ],
    )
    rows, report, refusals = run(source)
    pairs = [(one["user_id"], one["item_id"]) for one in rows["alignments.jsonl"]]
    assert pairs == [(str(user), "other"), ("somebody else", str(item))]
    assert report.left_out == {"alignment with the held-out item": 2}
    assert refusals.total == 0


def test_candidates_come_without_their_padding(source: Path) -> None:
    padded = [{"item_id": "B1", "score": 0.5}, {"item_id": "[PAD]", "score": 0.4}]
    rows_ = [{"user_id": "u1", "topk": 2, "results": padded}, {"user_id": "u2", "results": None}]
    write(source, "candidate.jsonl", rows_)
    rows, report, refusals = run(source)
    assert rows["candidates.jsonl"][0] == {"user_id": "u1", "results": padded[:1]}
    assert report.repaired == {"candidate list without its padding": 1}
    assert refusals.counts == {"record without results": 1}


def test_a_folder_that_holds_artifacts_is_left_alone(source: Path) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW])
    run(source)
    reviews = source.parent / "artifacts" / "reviews.jsonl"
    before = reviews.read_bytes()
    with pytest.raises(InputError, match=r"holds items\.jsonl already"):
        convert(source, reviews.parent, Refusals())
    assert reviews.read_bytes() == before


def test_an_alignment_of_nobody(source: Path) -> None:
    rows_ = [selection("B1", "P1", user=user) for user in (None, ["u"], {"a": 1}, "")]
    write(source, "4_selected_personas.jsonl", rows_)
    rows, _, refusals = run(source)
    assert rows["alignments.jsonl"] == []
    assert refusals.total == 4


# --- files and folders -------------------------------------------------------------------------


def test_a_folder_without_any_of_the_files(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nope"):
        with pytest.raises(InputError, match="holds none of the files of the paper's code"):
            convert(folder, tmp_path / "artifacts", Refusals())
    assert not (tmp_path / "artifacts").exists()


def test_an_output_that_cannot_be_made(source: Path) -> None:
    path = write(source, "gt.jsonl", [])
    for output in (path, path / "below"):
        with pytest.raises(InputError, match="cannot be made or written: "):
            convert(source, output, Refusals())


def test_nothing_half_written_is_left(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW])
    output = source.parent / "artifacts"
    before = sorted(source.parent.iterdir())

    class Interrupting(RecordedProgress):
        def advance(self, count: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, output, Refusals(), Interrupting())
    assert sorted(source.parent.iterdir()) == before

    synced = []

    def full(_: int) -> None:
        synced.append(1)
        if len(synced) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError):
        convert(source, output, Refusals())
    assert sorted(source.parent.iterdir()) == before
    monkeypatch.undo()
    convert(source, output, Refusals())
    assert sorted(path.name for path in output.iterdir()) == sorted(MODELS)


def test_every_line_is_one_step(source: Path) -> None:
    write(source, "1_aspects.jsonl", [BOOK_REVIEW, "{", BOOK_REVIEW])
    write(source, "gt.jsonl", [{"user_id": "u", "item_id": "i"}])
    steps = RecordedProgress()
    convert(source, source.parent / "artifacts", Refusals(), steps)
    assert steps.counts == [1, 1, 1]


# --- the real sample ---------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    if not SAMPLE.is_dir():
        pytest.skip(f"the sample of the paper's files is not at {SAMPLE}")
    folder = tmp_path / "paper"
    folder.mkdir()
    for path in SAMPLE.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_the_real_sample(sample: Path) -> None:
    rows, report, refusals = run(sample)
    assert report.taken == {
        "items.jsonl": 150,
        "reviews.jsonl": 1148,
        "summaries.jsonl": 705,
        "aspects.jsonl": 1145,
        "personas.jsonl": 50,
        "alignments.jsonl": 50,
        "splits.jsonl": 96,
        "candidates.jsonl": 46,
    }
    assert sum(len(one["personas"]) for one in rows["personas.jsonl"]) == 299
    assert report.left_out == {"aspects all null": 3}
    assert refusals.total == 0
    assert report.repaired["persona taken from the judge's own words"] == 38
    assert all(1e9 < one["timestamp"] < 2e9 for one in rows["reviews.jsonl"])
    folder = ArtifactFolder(sample.parent / "artifacts")
    wrong = Refusals()
    assert len(list(folder.index_rows("books", wrong))) == 50
    with Histories(folder, wrong) as histories:
        held_out = {(one["user_id"], one["test_item"]) for one in rows["splits.jsonl"]}
        users = {one["user_id"] for one in rows["reviews.jsonl"]}
        done = {(user, one.item_id) for user in users for one in histories.get(user)}
    assert len(done) > 1000
    assert not done & held_out
    assert wrong.total == 0


def test_the_real_personas_alone(sample: Path) -> None:
    for path in sample.iterdir():
        if path.name != "3_personas.jsonl":
            path.unlink()
    rows, _, refusals = run(sample)
    assert len(rows["personas.jsonl"]) == 50
    assert sum(len(one["personas"]) for one in rows["personas.jsonl"]) == 299
    assert refusals.total == 0
