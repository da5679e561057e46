"""A poisoned interaction: reviews with a marker in each held-out one, reasoned on for real."""

import shutil
from pathlib import Path

import pytest

from indexer.artifacts.lines import Refusals
from indexer.evaluation.candidates import ListInputs, ListOptions, write_candidates
from indexer.evaluation.leaks.check import LeakFiles, check_leaks
from indexer.evaluation.leaks.poison import poison
from indexer.evaluation.leaks.report import LeakError
from indexer.evaluation.truth import read_truth
from tests.support.paths import BOOKSHOP
from tests.support.reasoning import Reason

pytest.importorskip("scipy")


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """The bookshop with a marker in the title and text of every held-out review."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in ("items.jsonl", "splits.jsonl"):
        shutil.copy(BOOKSHOP / name, folder)
    held_out = read_truth(BOOKSHOP / "splits.jsonl", Refusals()).held_out
    poison(BOOKSHOP / "reviews.jsonl", held_out, folder / "reviews.jsonl", Refusals())
    return folder


def test_nothing_that_is_made_holds_a_marker(
    poisoned: Path,
    reason: Reason,
    tmp_path: Path,
) -> None:
    done = reason(source=poisoned)
    assert done.returncode == 0, done.stderr
    reviews, splits = poisoned / "reviews.jsonl", poisoned / "splits.jsonl"
    lists = tmp_path / "out" / "lists.jsonl"
    write_candidates(ListInputs(reviews, splits), lists, ListOptions("itemknn"), Refusals())
    report = check_leaks(LeakFiles(tmp_path / "out", reviews, splits, candidates=[lists]))
    report.require_clean()
    assert next(check for check in report.checks if "markers" in check.name).looked_at > 400


def test_reasoning_that_sees_all_reviews_is_found_out(
    poisoned: Path,
    reason: Reason,
    tmp_path: Path,
) -> None:
    honest = tmp_path / "splits.jsonl"
    shutil.copy(poisoned / "splits.jsonl", honest)
    [first, *_] = (poisoned / "splits.jsonl").read_text().splitlines()
    (poisoned / "splits.jsonl").write_text(first + "\n")
    assert reason(source=poisoned).returncode == 0
    report = check_leaks(LeakFiles(tmp_path / "out", poisoned / "reviews.jsonl", honest))
    found = {check.name: check.leaks for check in report.checks}
    assert found["aspects"] > 30
    assert found["evidence of personas"] >= 1
    assert found["alignments"] > 10
    assert found["markers of poisoned interactions"] > 30
    with pytest.raises(LeakError, match="held-out interactions leak"):
        report.require_clean()
