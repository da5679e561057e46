"""`p4r backup`, `restore` and `copy`, killed at random moments: the same end as undisturbed."""

from pathlib import Path
from typing import Any

from p4r_qdrant import Settings
from p4r_qdrant.index.opening import open_versions
from tests.support.backups import assert_same, contents, fill
from tests.support.campaign import Attempt, Campaign
from tests.support.engines import NewIndex, embedded
from tests.support.killing import Command
from tests.support.service_process import environment_of

KILLS = 1
AGAIN = {
    "backup": "holds a backup already",
    "restore": "no error",
    "copy": "holds versions already",
}
"""What a command says that has been run to its end before."""


def commands(source: Settings, target: Settings, copied: Path) -> dict[str, Command]:
    """Each command, in the order in which they need one another."""
    ends = ["--from", source.qdrant.url or str(source.qdrant.path), "--to", str(copied)]
    if source.qdrant.url:
        ends += ["--from-collection", source.qdrant.collection]
    return {
        "backup": Command(("backup", "backup"), environment_of(source)),
        "restore": Command(("restore", "backup"), environment_of(target)),
        "copy": Command(("copy", *ends), environment_of(source)),
    }


def test_killed(campaign: Campaign, new_index: NewIndex, tmp_path: Path) -> None:
    source = new_index(0)
    fill(source)
    wanted = contents(source)
    own = commands(source, new_index(1), tmp_path / "copy-1")
    folder = tmp_path / "whole"
    folder.mkdir()
    steps = {name: command.succeed(folder).steps for name, command in own.items()}
    assert_same(contents(new_index(1)), wanted)
    assert_same(contents(embedded(tmp_path / "copy-1")), wanted)
    scenario = campaign(f"p4r backup, restore, copy, {new_index.engine}: kill -9", "a command")
    for attempt in scenario.attempts(1):
        number = attempt.number + 2
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        with attempt:
            check(attempt, folder, source, new_index(number), steps, wanted)


def check(
    attempt: Attempt,
    folder: Path,
    source: Settings,
    target: Settings,
    steps: dict[str, int],
    wanted: dict[str, Any],
) -> None:
    copied = embedded(folder / "copied")
    for name, command in commands(source, target, copied.qdrant.path).items():
        for _ in range(KILLS):
            if command.killed(folder, attempt, steps[name]).code == 0:
                break
            live = {"restore": target, "copy": copied}.get(name)
            if live is not None and is_live(live):
                assert_same(contents(live), wanted)  # what readers see is whole
        else:
            with attempt.timed():
                done = command.run(folder)
            # It may have been killed when all was done.
            assert done.code == 0 or AGAIN[name] in done.sentence, done.err
    assert_same(contents(target), wanted)
    assert_same(contents(copied), wanted)
    assert [one.name for one in folder.iterdir() if one.name.startswith("p4r-copy-")] == []


def is_live(settings: Settings) -> bool:
    with open_versions(settings) as versions:
        return versions.live() is not None
