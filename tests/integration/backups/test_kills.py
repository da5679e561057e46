"""Backup and restore killed before and after writes, and beside writers."""

import shutil
import threading
from pathlib import Path

import pytest

from devtools.qdrant_process import QdrantServer
from indexer.backups import backup as backing_up
from indexer.backups.backup import backup
from indexer.backups.folder import BackupFolder
from indexer.backups.restore import restore
from p4r_qdrant import PersonaIndex, open_index
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.edge.columns import EdgeColumnSets
from p4r_qdrant.index.edge.engine import EdgeEngine
from p4r_qdrant.index.edge.versions import EdgeVersions
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.users.sqlite import SqliteInteractions, SqliteJobs, SqliteVectors
from tests.support.backups import assert_same, contents, fill
from tests.support.edge_process import vectors_of, version
from tests.support.engines import embedded, on_server, opened
from tests.support.kills import Kills

ITEMS = 40


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    return Kills(monkeypatch)


def test_a_backup_that_is_killed_at_every_write(
    kills: Kills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.backups.parts.MOST_RECORDS", 8)
    monkeypatch.setattr(backing_up, "WRITE_BATCH", 2)
    index, folder = embedded(tmp_path / "index"), tmp_path / "backup"
    fill(index, 8)
    backup(index, tmp_path / "whole")
    kills.watch(BackupFolder, "_write", "_write_manifest")
    for _ in kills.rounds(stride=15):
        shutil.rmtree(folder, ignore_errors=True)
        with kills:
            backup(index, folder)
        if BackupFolder(folder).is_whole():
            with pytest.raises(InputError, match="holds a backup already"):
                backup(index, folder)
        else:
            backup(index, folder)
        assert parts_of(folder) == parts_of(tmp_path / "whole")
        assert not list(folder.glob("unfinished*"))


def parts_of(folder: Path) -> list[dict[str, object]]:
    return [one.model_dump() for one in BackupFolder(folder).manifest().parts]


@pytest.mark.parametrize("force", [False, True])
def test_a_restore_that_is_killed_at_every_write(kills: Kills, tmp_path: Path, force: bool) -> None:
    index = embedded(tmp_path / "index")
    fill(index, 8)
    wanted = contents(index)
    backup(index, tmp_path / "backup")
    kills.watch(EdgeEngine, "upsert", "write_metadata")
    kills.watch(EdgeColumnSets, "write")
    kills.watch(EdgeVersions, "begin_publish", "switch")
    kills.watch(SqliteInteractions, "load")
    kills.watch(SqliteJobs, "load")
    kills.watch(SqliteVectors, "put")
    for place in kills.rounds(stride=21):
        target = embedded(tmp_path / f"target-{place}")
        if force:
            with opened(target) as before:
                before.load([version("own", 3)])
        with kills:
            restore(target, tmp_path / "backup", force=force)
        with open_versions(target) as versions:
            live = versions.live()
        if force and live == "first":
            check_own(target.qdrant.path)
        restore(target, tmp_path / "backup", force=force and live == "first")
        found = contents(target)
        if force:  # both have the same fingerprint
            with open_versions(target) as versions:
                assert len(versions.all()) == 3
                assert versions.roll_back() == "first"
            check_own(target.qdrant.path)
        else:
            assert_same(found, wanted)


def check_own(path: Path) -> None:
    with open_index(embedded(path)) as index:
        assert [*index.item_ids()] == ["own"]


def test_half_of_an_item_is_never_in_a_backup(
    qdrant_server: QdrantServer, collection_name: str, tmp_path: Path
) -> None:
    settings = on_server(qdrant_server, collection_name)
    with opened(settings) as index:
        index.load([version(f"item-{one}", one) for one in range(ITEMS)])
        over = threading.Event()
        writer = threading.Thread(target=keep_replacing, args=(index, over))
        writer.start()
        try:
            manifests = [backup(settings, tmp_path / str(one)) for one in range(4)]
        finally:
            over.set()
            writer.join()
    target = embedded(tmp_path / "target")
    restore(target, tmp_path / "3")
    generations = set()
    with open_index(target) as index:
        assert index.stats().items == ITEMS
        for own in index.items():
            (number,) = {int(one.persona_id.partition("_")[0][1:]) for one in own}
            assert len(own) == len(vectors_of(number)), "of one writing, and all of it"
            generations.add(number)
        assert index.repair() == 0
    assert max(generations) >= ITEMS, "something was replaced meanwhile"
    assert [one.left_out for one in manifests] == [0] * 4


def keep_replacing(index: PersonaIndex, over: threading.Event) -> None:
    number = ITEMS
    while not over.is_set():
        number += 1
        item = version(f"item-{number % ITEMS}", number)
        index.replace_item(item.item_id, item.personas, item.vectors)


@pytest.mark.parametrize(
    "text", ['{"project": "p4r-qdrant", "format": 9}', '{"of": "another program"}', ""]
)
def test_what_somebody_else_began_is_not_touched(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "backup"
    fill(embedded(tmp_path / "index"), 3)
    folder.mkdir()
    (folder / "unfinished.json").write_text(text)
    (folder / "personas-0-00001.jsonl.gz").write_bytes(b"theirs")
    with pytest.raises(InputError, match="cannot be read as the beginning"):
        backup(embedded(tmp_path / "index"), folder)
    assert (folder / "personas-0-00001.jsonl.gz").read_bytes() == b"theirs"
    assert {one.name for one in folder.iterdir()} == {
        "unfinished.json",
        "personas-0-00001.jsonl.gz",
    }
