"""The one writer of whole files; `tests/unit/indexer/artifacts` tests its sentences."""

import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from indexer.artifacts.writing import written_bytes
from p4r_qdrant.users.sqlite import Database
from p4r_qdrant.whole_files import (
    is_unfinished,
    opened_privately,
    remove_unfinished,
    whole_file,
    write_whole,
)
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


def test_a_temporary_file_in_use_is_not_removed(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as file:
        file.write(b"content")
        remove_unfinished(tmp_path)
        write_whole(tmp_path / "other", b"")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_the_next_writer_in_a_folder_removes_what_killed_ones_left(tmp_path: Path) -> None:
    left = tmp_path / ".reviews.jsonl.17.unfinished"
    left.write_text("words of a user")
    write_whole(tmp_path / "items.jsonl", b"")
    assert [one.name for one in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_planted_link_is_neither_followed_nor_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    folder.mkdir()
    victim.write_text("kept")
    names = iter(["guessed", "free"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(names))
    (folder / ".file.guessed.unfinished").symlink_to(victim)
    write_whole(folder / "file", b"new")
    assert victim.read_text() == "kept"
    assert [one.name for one in folder.iterdir()] == ["file"]
    planted = folder / ".other.free.unfinished"
    monkeypatch.setattr("p4r_qdrant.whole_files.remove_unfinished", lambda _: None)
    planted.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(folder / "other", b"new")
    assert victim.read_text() == "kept"


def test_nobody_else_reads_what_is_private_and_no_rewriting_opens_a_file(tmp_path: Path) -> None:
    def mode(name: str) -> int:
        return (tmp_path / name).stat().st_mode & 0o777

    with whole_file(tmp_path / "private", private=True) as file:
        assert os.fstat(file.fileno()).st_mode & 0o077 == 0, "not for a moment"
    write_whole(tmp_path / "public", b"")
    assert (mode("private"), mode("public") & 0o444) == (0o600, 0o444)
    (tmp_path / "public").chmod(0o600)
    write_whole(tmp_path / "public", b"again")
    assert mode("public") == 0o600
    opened_privately(tmp_path / "log", "ab").close()
    assert mode("log") == 0o600
    Database(tmp_path / "users.sqlite").close()
    assert mode("users.sqlite") == 0o600
    for name in ("reviews.jsonl", "reviews.jsonl.gz", "main.csv"):
        with written_bytes(tmp_path / name):
            pass
    assert mode("reviews.jsonl") == mode("reviews.jsonl.gz") == 0o600
    assert mode("main.csv") & 0o444 == 0o444


def test_nothing_else_writes_a_file_beside_another_one() -> None:
    own = ("whole_files.py", "output_folder.py", "sums.py")  # the last only names its own file anew
    renaming = re.compile(r"\.unfinished|os\.(replace|rename)\(|_path\.replace\(")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("p4r_qdrant", "indexer")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in path.read_text().splitlines()
        if renaming.search(line) and path.name not in own
    ]
    assert found == []
