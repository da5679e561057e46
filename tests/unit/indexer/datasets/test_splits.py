"""Leave-one-out against the plain definition, and against splits that others made."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import REVIEWS, SPLITS
from indexer.datasets.formats import FORMATS
from indexer.datasets.prepare import Dataset, prepare
from indexer.datasets.selection import Selection
from indexer.datasets.splits import leave_one_out
from tests.support.paths import ROOT

REAL = ROOT.parent / "shared" / "data"

HISTORIES = st.dictionaries(
    st.sampled_from("uvwxyz"),
    st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 3), max_size=7),
)


@given(HISTORIES, st.integers(2, 5), st.randoms())
def test_the_last_is_the_test_and_the_last_but_one_the_validation(
    histories: dict[str, dict[str, int]], least: int, random: Random
) -> None:
    rows = []
    for user, times in histories.items():
        own = [(user, item, time) for item, time in times.items()]
        random.shuffle(own)
        rows += own
    splits = {one.user_id: one for one in leave_one_out(rows, min_interactions=least)}
    assert splits.keys() == {user for user, times in histories.items() if len(times) >= least}
    for user, split in splits.items():
        times = histories[user]
        assert split.valid_item is not None
        test, valid = split.test_item, split.valid_item
        others = times.keys() - {test, valid}
        assert (times[test], test) > (times[valid], valid)
        assert all((times[valid], valid) > (times[one], one) for one in others)
        assert split.tie == (times[test] == times[valid])


def test_ties_go_by_item_id_or_by_the_order_given() -> None:
    rows = [("u", "b", 5), ("u", "c", 5), ("u", "a", 5)]
    [by_item], [by_file] = (list(leave_one_out(rows, ties=ties)) for ties in ("item", "file"))
    assert (by_item.test_item, by_item.valid_item, by_item.tie) == ("c", "b", True)
    assert (by_file.test_item, by_file.valid_item, by_file.tie) == ("a", "c", True)


def test_users_with_fewer_than_three_are_not_split() -> None:
    assert not list(leave_one_out([("u", "a", 1), ("u", "b", 2)]))


@pytest.mark.parametrize("name", ["magazines", "musical-instruments"])
def test_the_splits_of_the_real_data_come_out_again(name: str, tmp_path: Path) -> None:
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"the real data are not there: {folder}")
    output = tmp_path / name
    # These splits were made by a stable sort of the file by time, for users with five or more.
    selection = Selection(ties="file", min_interactions=5)
    prepare(
        Dataset(FORMATS["plain"], [folder / REVIEWS], []), output, Refusals(), selection=selection
    )
    assert (output / SPLITS).read_bytes() == (folder / SPLITS).read_bytes()


@pytest.mark.parametrize("name", ["magazines", "musical-instruments"])
def test_by_item_the_real_splits_differ_in_ties_alone(name: str, tmp_path: Path) -> None:
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"the real data are not there: {folder}")
    output = tmp_path / name
    selection = Selection(min_interactions=5)
    prepare(
        Dataset(FORMATS["plain"], [folder / REVIEWS], []), output, Refusals(), selection=selection
    )
    ours, theirs = (
        [json.loads(line) for line in (where / SPLITS).read_text("utf-8").splitlines()]
        for where in (output, folder)
    )
    times = {}
    for line in (folder / REVIEWS).read_text("utf-8").splitlines():
        review = json.loads(line)
        times[review["user_id"], review["item_id"]] = review["timestamp"]
    assert [(one["user_id"], one["tie"]) for one in ours] == [
        (one["user_id"], one["tie"]) for one in theirs
    ]
    for our, their in zip(ours, theirs, strict=True):
        for item in ("test_item", "valid_item"):
            user = our["user_id"]
            assert times[user, our[item]] == times[user, their[item]]
