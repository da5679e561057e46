"""The one writer of whole files; `tests/unit/indexer/artifacts` tests its sentences."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p4r_qdrant.whole_files import is_unfinished, remove_unfinished, whole_file, write_whole
from tests.support.paths import ROOT


def test_content_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "é")
    with whole_file(path) as file:
        file.write(b"\x00new")
        file.flush()
        assert path.read_text() == "é"
        [other] = [one.name for one in tmp_path.iterdir() if one != path]
        assert is_unfinished(other)
        assert not is_unfinished(path.name)
    assert path.read_bytes() == b"\x00new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_and_its_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112
        events.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_whole(tmp_path / "file", b"content")
    assert events == ["sync file", "rename", "sync folder"]


def test_two_threads_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_whole(path, content), contents))
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_can_be_removed(tmp_path: Path) -> None:
    left, kept = tmp_path / ".file.17.unfinished", tmp_path / "file"
    for path in (left, kept):
        path.touch()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_nothing_else_writes_a_file_beside_another_one() -> None:
    renaming = re.compile(r"\.unfinished|os\.(replace|rename)\(|_path\.replace\(")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("p4r_qdrant", "indexer")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in path.read_text().splitlines()
        if renaming.search(line) and path.name not in ("whole_files.py", "output_folder.py")
    ]
    assert found == []
