"""The leak checks: silent on a clean catalogue, and loud for each leak that is planted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.lines import Refusals
from indexer.evaluation.candidates import ListInputs, ListOptions, provenance_path, write_candidates
from indexer.evaluation.leaks.check import LeakFiles, check_leaks
from indexer.evaluation.leaks.poison import MARKER, marker, poison
from indexer.evaluation.leaks.report import LeakError, LeakReport
from indexer.evaluation.truth import read_truth
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError
from tests.support.jsonl import read, write
from tests.support.paths import ROOT, copy_bookshop
from tests.support.progress import RecordedProgress

pytest.importorskip("scipy")

HELD_OUT = ("bea-k", "winter-interpreter")
MAGAZINES = ROOT.parent / "shared" / "data" / "magazines"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The bookshop, with lists of our own."""
    folder = tmp_path / "shop"
    copy_bookshop(folder)
    write_candidates(
        ListInputs(folder / "reviews.jsonl", folder / "splits.jsonl"),
        folder / "candidates.jsonl",
        ListOptions("ease"),
        Refusals(),
    )
    return folder


def checked(shop: Path, progress: Progress = SILENT, **more: Any) -> LeakReport:
    return check_leaks(LeakFiles(shop, candidates=[shop / "candidates.jsonl"], **more), progress)


def held_out_review(shop: Path) -> dict[str, Any]:
    return next(
        row for row in read(shop / "reviews.jsonl") if (row["user_id"], row["item_id"]) == HELD_OUT
    )


def test_a_clean_catalogue(shop: Path) -> None:
    progress = RecordedProgress()
    report = checked(shop, progress=progress)
    assert report.clean
    report.require_clean()
    looked_at = {check.name: check.looked_at for check in report.checks}
    assert looked_at["lists candidates.jsonl"] == 22
    assert looked_at["aspects"] == 106
    assert looked_at["alignments"] == 64
    assert looked_at["evidence of personas"] > 100
    assert looked_at["words of 41 held-out reviews"] > 200
    assert sum(progress.counts) > 500
    assert json.loads(json.dumps(report.record()))[0]["leaks"] == 0


# --- each kind of leak, planted ---------------------------------------------------------------


def fitted_to_everything(shop: Path) -> None:
    splits = read(shop / "splits.jsonl")
    write(shop, "other.jsonl", splits[1:])
    _generate(shop, splits="other.jsonl")


def tuned_on_test_items(shop: Path) -> None:
    swapped = [
        row | {"test_item": row["valid_item"], "valid_item": row["test_item"]}
        for row in read(shop / "splits.jsonl")
    ]
    write(shop, "other.jsonl", swapped)
    _generate(shop, splits="other.jsonl")


def _generate(shop: Path, splits: str) -> None:
    inputs = ListInputs(shop / "reviews.jsonl", shop / splits)
    write_candidates(inputs, shop / "candidates.jsonl", ListOptions("popularity"), Refusals())


def other_lists_under_the_same_provenance(shop: Path) -> None:
    path = shop / "candidates.jsonl"
    changed = read(path)
    changed[0]["results"].insert(0, {"item_id": HELD_OUT[1], "score": 99})
    write(shop, path.name, changed)


def lists_of_no_known_origin(shop: Path) -> None:
    provenance_path(shop / "candidates.jsonl").unlink()


def aspects_of_a_held_out_review(shop: Path) -> None:
    slots = {"category_preference": "translated novels"}
    stamp = {"timestamp": 1, "rating": 5.0, "aspects": slots}
    append(shop / "aspects.jsonl", {"item_id": HELD_OUT[1], "user_id": HELD_OUT[0], **stamp})


def a_persona_resting_on_a_held_out_review(shop: Path) -> None:
    changed = read(shop / "personas.jsonl")
    for row in changed:
        if row["item_id"] == HELD_OUT[1]:
            row["personas"][-1]["evidence"].append(HELD_OUT[0])
    write(shop, "personas.jsonl", changed)


def an_alignment_with_the_answer(shop: Path) -> None:
    append(
        shop / "alignments.jsonl",
        {
            "user_id": HELD_OUT[0],
            "item_id": HELD_OUT[1],
            "persona_id": f"{HELD_OUT[1]}_P1",
            "justification": "",
        },
    )


def a_persona_in_the_words_of_a_held_out_review(shop: Path) -> None:
    words = held_out_review(shop)["text"].split()[:14]
    changed = read(shop / "personas.jsonl")
    changed[3]["personas"][0]["description"] += " " + " ".join(words).upper()
    write(shop, "personas.jsonl", changed)


def a_summary_in_the_words_of_a_held_out_review(shop: Path) -> None:
    changed = read(shop / "summaries.jsonl")
    changed[0]["summary"] = held_out_review(shop)["text"]
    write(shop, "summaries.jsonl", changed)


def a_ledger_that_was_asked_about_a_held_out_review(shop: Path) -> None:
    (shop / "ledger").mkdir()
    write(shop / "ledger", "aspects.jsonl", [{"answer": {"said": held_out_review(shop)["text"]}}])


def a_marker_in_an_alignment(shop: Path) -> None:
    changed = read(shop / "alignments.jsonl")
    changed[5]["justification"] = f"Because {marker(*HELD_OUT)}."
    write(shop, "alignments.jsonl", changed)


def an_unreadable_line_in_the_aspects(shop: Path) -> None:
    with (shop / "aspects.jsonl").open("a") as file:
        file.write('{"user_id": "bea-k"\n')


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (fitted_to_everything, r"candidates.jsonl was fitted to 111 interactions that are not the"),
        (tuned_on_test_items, r"candidates.jsonl was not tuned on the validation items"),
        (
            other_lists_under_the_same_provenance,
            r"is not the file that candidates.jsonl.provenance.json describes",
        ),
        (lists_of_no_known_origin, r"has no candidates.jsonl.provenance.json, so that what it"),
        (aspects_of_a_held_out_review, r"aspects.jsonl:107 is of user 'bea-k', item 'winter-inter"),
        (
            a_persona_resting_on_a_held_out_review,
            r"personas.jsonl:2: persona 'winter-interpreter_P\d' rests on the held-out review of",
        ),
        (an_alignment_with_the_answer, r"alignments.jsonl:65 is of user 'bea-k'"),
        (
            a_persona_in_the_words_of_a_held_out_review,
            r"personas.jsonl:4 repeats 8 words in a row of the held-out review of user 'bea-k'",
        ),
        (
            a_summary_in_the_words_of_a_held_out_review,
            r"summaries.jsonl:1 repeats 8 words in a row of the held-out review of user 'bea-k'",
        ),
        (
            a_ledger_that_was_asked_about_a_held_out_review,
            r"ledger.aspects.jsonl:1 repeats 8 words in a row",
        ),
        (
            a_marker_in_an_alignment,
            r"alignments.jsonl:6 holds the marker of a poisoned interaction",
        ),
        (an_unreadable_line_in_the_aspects, r"aspects: 1 lines cannot be read, the first"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_leak_is_found(plant: Callable[[Path], None], sentence: str, shop: Path) -> None:
    plant(shop)
    report = checked(shop)
    assert not report.clean
    with pytest.raises(LeakError, match=sentence):
        report.require_clean()


def test_training_pairs_and_other_files(shop: Path) -> None:
    pairs = write(shop, "pairs.jsonl", [{"user_id": HELD_OUT[0], "item_id": HELD_OUT[1]}])
    with pytest.raises(LeakError, match=r"pairs.jsonl:1 is of user 'bea-k'"):
        checked(shop, pairs=[pairs]).require_clean()
    adapter = shop.parent / "adapter"
    (adapter / "runs").mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"\xff\x00")
    write(adapter, "runs/pairs.jsonl", [{"texts": [held_out_review(shop)["text"]]}])
    with pytest.raises(LeakError, match=r"adapter.runs.pairs.jsonl:1 repeats 8 words"):
        checked(shop, made=[adapter]).require_clean()


def test_what_is_to_be_searched_must_be_there(shop: Path) -> None:
    missing: tuple[dict[str, Any], ...] = ({"pairs": [shop / "no.jsonl"]}, {"made": [shop / "no"]})
    for more in missing:
        with pytest.raises(InputError, match="does not exist, so that it cannot be searched"):
            checked(shop, **more)


def test_words_that_training_reviews_hold_too_are_no_leak(shop: Path) -> None:
    """People paste the same review under several items."""
    again = held_out_review(shop) | {"user_id": "kofi-b", "item_id": "slow-light"}
    append(shop / "reviews.jsonl", again)
    _generate(shop, splits="splits.jsonl")
    a_summary_in_the_words_of_a_held_out_review(shop)
    assert checked(shop).clean


@pytest.mark.parametrize(("between", "clean"), [(" ", False), ("” “", True), ("”; “", True)])
def test_words_of_two_quotes_are_no_run(between: str, clean: bool, shop: Path) -> None:
    """Sentences that are quoted one after the other need not follow each other in their review."""
    words = held_out_review(shop)["text"].split()[:8]
    text = f"“{' '.join(words[:4])}{between}{' '.join(words[4:])}”"
    append(shop / "summaries.jsonl", {"item_id": "quoted", "summary": text})
    assert checked(shop).clean is clean


def test_a_split_that_cannot_be_trusted(shop: Path) -> None:
    append(shop / "splits.jsonl", {"user_id": "zoe", "test_item": "x", "valid_item": "x"})
    with pytest.raises(InputError, match="the split overlaps itself"):
        checked(shop)
    (shop / "splits.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no splits.jsonl"):
        checked(shop)


def test_poison(shop: Path) -> None:
    truth = read_truth(shop / "splits.jsonl", Refusals())
    output = shop / "poisoned.jsonl"
    counts = poison(shop / "reviews.jsonl", truth.held_out, output, Refusals())
    assert counts == {"poisoned": 44, "as it was": 109}
    text = output.read_text()
    assert len({word for word in text.split() if MARKER in word}) >= 44
    before, after = read(shop / "reviews.jsonl"), read(output)
    for old, new in zip(before, after, strict=True):
        assert (old["user_id"], old["item_id"]) == (new["user_id"], new["item_id"])
        poisoned = (old["user_id"], old["item_id"]) in truth.held_out
        assert (marker(old["user_id"], old["item_id"]) in new["text"]) == poisoned
        assert poisoned or old == new


@pytest.mark.skipif(not MAGAZINES.is_dir(), reason=f"the data are not there: {MAGAZINES}")
def test_the_magazines_are_clean() -> None:
    report = check_leaks(LeakFiles(MAGAZINES))
    report.require_clean()
    looked_at = {check.name: check.looked_at for check in report.checks}
    assert looked_at["aspects"] == 1467
    assert looked_at["alignments"] == 908
