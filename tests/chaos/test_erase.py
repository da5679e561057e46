"""`p4r erase`, killed at random moments: it ends in the same files, and names the same items."""

import shutil
from pathlib import Path

from tests.support.campaign import Campaign
from tests.support.erasable import bookshop_with_ledger
from tests.support.jsonl import read
from tests.support.killing import Command, files

KILLS = 3
USER = "maren-o"
ERASE = Command(("erase", USER, "--artifacts", "books"))


def what_is_left(folder: Path) -> dict[str, bytes]:
    """All files but the reports, which tell what each run has removed and when."""
    found = files(folder, "*")
    del found["books/erasures.jsonl"]
    return found


def test_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    made, whole = tmp_path / "made", tmp_path / "whole"
    bookshop_with_ledger(made / "books")
    shutil.copytree(made, whole)
    done = ERASE.succeed(whole)
    assert done.out
    scenario = campaign("p4r erase: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(2):
        folder = tmp_path / str(attempt.number)
        shutil.copytree(made, folder)
        with attempt:
            named = [ERASE.killed(folder, attempt, done.steps).out for _ in range(KILLS)]
            with attempt.timed():
                last = ERASE.run(folder)
            if last.code:  # a killed run was done, and had said so
                assert f"user {USER!r} is in no file" in last.sentence
            assert done.out in [*named, last.out], "the items to reason on again are lost"
            assert what_is_left(folder) == what_is_left(whole)
            *_, report = read(folder / "books" / "erasures.jsonl")
            assert report["complete"]
            assert USER.encode() not in b"".join(files(folder, "*").values())
