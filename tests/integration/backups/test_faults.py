"""Backups that are refused, and what a refusal leaves."""

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from indexer.backups import backup as backing_up
from indexer.backups.backup import BackupOptions, backup, whole_items
from indexer.backups.copying import copy
from indexer.backups.folder import MANIFEST, UNFINISHED, BackupFolder
from indexer.backups.manifest import Manifest
from indexer.backups.places import Place
from indexer.backups.restore import restore
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    InputError,
    SettingsError,
    StorageFullError,
)
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.payload import UNSETTLED, ItemVectors, Point, make_points
from p4r_qdrant.users.opening import open_store
from tests.support.backups import NEW, assert_same, contents, fill, interaction, made_with
from tests.support.damage import flip
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.index_data import personas, rows
from tests.support.memory_index import MemoryIndex
from tests.support.oracle import DIMENSION
from tests.support.small_disk import full_disk


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an embedded index with everything, and a backup of it."""
    folder = tmp_path_factory.mktemp("original")
    fill(embedded(folder / "index"))
    backup(embedded(folder / "index"), folder / "backup")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the backup."""
    shutil.copytree(original / "backup", tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def target(tmp_path: Path) -> Settings:
    return embedded(tmp_path / "target")


def parts_of(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.gz"), *folder.glob("*.npy")])


def refused(folder: Path, target: Settings, sentence: str) -> None:
    """The restore is refused with this sentence, and leaves nothing."""
    with pytest.raises(InputError, match=sentence) as error:
        restore(target, folder)
    assert str(folder) in str(error.value)
    assert not target.qdrant.path.exists()
    assert not target.qdrant.path.with_name("target-users.sqlite").exists()


def test_only_the_owner_can_read_a_backup(folder: Path) -> None:
    names = {"personas", "columns", "interactions", "jobs"}
    assert {one.name.partition("-")[0] for one in parts_of(folder)} == names
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o77 == 0, path
    with gzip.open(folder / "interactions-1-00001.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert {json.loads(line)["user_id"] for line in lines} == {"ada", "Öz/ü"}


def test_a_part_that_is_changed_cut_or_gone(folder: Path, target: Settings) -> None:
    for path in parts_of(folder):
        content = path.read_bytes()
        flip(path, len(content) // 2)
        refused(folder, target, f"{path.name} differs from its checksum")
        path.write_bytes(content[:-1])
        refused(folder, target, f"{path.name} has {len(content) - 1} bytes, not {len(content)}")
        path.unlink()
        refused(folder, target, f"{path.name} is missing")
        os.mkfifo(path)
        refused(folder, target, f"{path.name} is no file")
        path.unlink()
        path.write_bytes(content)
    assert restore(target, folder)


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        stored = json.loads(path.read_text())
        change(stored)
        path.write_text(json.dumps(stored))

    return edit


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: os.truncate(path, 700), "is damaged; take another copy"),
        (lambda path: path.write_text("[]"), "is no backup of p4r-qdrant"),
        (lambda path: path.write_text("null"), "is no backup of p4r-qdrant"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), "is damaged"),
        (edited(lambda one: one.update(format=2)), "has format 2, and this release reads up to 1"),
        (edited(lambda one: one.update(format="1")), "is damaged"),
        (edited(lambda one: one.pop("sha256")), "is damaged"),
        (edited(lambda one: one["backup"].update(left_out=7)), "is damaged"),  # type: ignore[attr-defined]
        (
            lambda path: path.rename(path.with_name(UNFINISHED)),
            "was not written to its end; run `p4r backup",
        ),
        (lambda path: path.unlink(), "holds no backup"),
        (lambda path: shutil.rmtree(path.parent), "there is no folder"),
    ],
)
def test_a_manifest_that_is_none(
    folder: Path, target: Settings, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(folder / MANIFEST)
    refused(folder, target, sentence)


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    path = folder / MANIFEST
    text = path.read_bytes()
    whole = Manifest.from_text(text, path)
    for place in range(0, len(text), 7):
        changed = text[:place] + bytes([text[place] ^ 4]) + text[place + 1 :]
        found = None
        with suppress(InputError):
            found = Manifest.from_text(changed, path)
        assert found in (None, whole), text[place - 20 : place + 20]  # of white space


def test_a_manifest_names_no_files_elsewhere(folder: Path, target: Settings) -> None:
    manifest = BackupFolder(folder).manifest()
    manifest.parts[0].lines.name = "../backup/personas-0-00001.jsonl.gz"
    (folder / MANIFEST).write_text(manifest.to_text())
    refused(folder, target, "is damaged")


def test_data_that_is_there_stays(folder: Path, original: Path, target: Settings) -> None:
    with open_versions(target) as versions:
        own = versions.named("test")
        with versions.open(own, made_with(NEW)) as index:
            index.replace_item("own", personas("own", 2), rows(1, 2))
        versions.switch({versions.alias: own})
        with closing(open_store(target, own, made_with(NEW), target.history)) as store:
            mine = interaction("ada", "item-1", 1, review_text="Mine, and newer.")
            store.add(mine)
    with pytest.raises(InputError, match=r"holds versions already .*--force"):
        restore(target, folder)
    done = restore(target, folder, force=True)
    assert (done.before, done.live) == (own, f"{own}-r2")
    found, wanted = contents(target), contents(embedded(original / "index"))
    kept = found["interactions"].pop(("ada", 1, "item-1"))
    assert kept["review_text"] == "Mine, and newer."
    del wanted["interactions"]["ada", 1, "item-1"]
    assert found["interactions"] == wanted["interactions"]
    with open_versions(target) as versions:
        assert versions.roll_back() == own
        with versions.open_live() as index:
            assert [*index.item_ids()] == ["own"]


def test_users_alone_are_data_too(folder: Path, target: Settings) -> None:
    open_store(target, "x", made_with(NEW), target.history).close()
    with pytest.raises(InputError, match="users are stored beside"):
        restore(target, folder)


def test_another_encoder_is_refused(folder: Path, target: Settings) -> None:
    named = target.model_copy(
        update={"encoder": target.encoder.model_copy(update={"model": "another"})}
    )
    named.encoder.model_fields_set.add("model")

    def load(*_: object) -> HashEncoder:
        return HashEncoder(DIMENSION)

    with pytest.raises(IndexMismatchError, match=r"fingerprint test, 8 dimensions.*hash-encoder-1"):
        restore(named, folder, load_encoder=load)
    assert not target.qdrant.path.exists()
    assert restore(target, folder, load_encoder=load).live, "none is named: the index names its own"


def test_an_index_is_not_restored_among_other_files(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(IndexMismatchError, match="holds something else than a persona index"):
        restore(embedded(folder), folder)
    assert sorted(folder.iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert restore(embedded(tmp_path / "empty"), folder).before == ""


def test_one_folder_is_for_one_backup(original: Path, tmp_path: Path) -> None:
    index, folder = embedded(original / "index"), BackupFolder(tmp_path / "one")
    with folder.locked(), pytest.raises(IndexLockedError, match="another backup is being written"):
        backup(index, folder.path)
    with pytest.raises(InputError, match="holds a backup already"):
        backup(index, original / "backup")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    for path, sentence in (
        (tmp_path / "other", "holds other files"),
        (tmp_path / "other" / "letter.txt", "cannot be read"),
    ):
        with pytest.raises(InputError, match=sentence):
            backup(index, path)
    assert [one.name for one in (tmp_path / "other").iterdir()] == ["letter.txt"]
    with pytest.raises(IndexMismatchError, match="there is no persona index"):
        backup(embedded(tmp_path / "none"), tmp_path / "two")
    assert not (tmp_path / "two").exists()
    assert not (tmp_path / "none").exists()


def test_the_live_version_without_users(original: Path, tmp_path: Path, target: Settings) -> None:
    options = BackupOptions(live_only=True, users=False)
    written = backup(embedded(original / "index"), tmp_path / "live", options)
    assert {one.section for one in written.parts} == {"personas", "columns"}
    restore(target, tmp_path / "live")
    wanted = contents(embedded(original / "index"))
    found = contents(target)
    del wanted["versions"]["old"]
    wanted["versions"]["test"]["metadata"]["previous"] = ""
    assert_same(found, {"live": "test", "versions": wanted["versions"]})


def begin(index: Settings, folder: Path) -> str:
    """Begin a backup that ends before its users. Returns its id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backing_up, "_back_up_users", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backup(index, folder)
    return str(json.loads((folder / UNFINISHED).read_text())["backup"]["id"])


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip(path, 60), None])
def test_a_backup_goes_on_from_whole_files(
    original: Path, tmp_path: Path, damage: Callable[[Path], object] | None
) -> None:
    index, folder = embedded(original / "index"), tmp_path / "new"
    begun = begin(index, folder)
    if damage:
        damage(folder / "personas-0-00001.vectors.npy")
    written = backup(index, folder)
    assert (written.id == begun) == (damage is None)
    assert BackupFolder(folder).holds(written)


def test_a_backup_of_what_was_published_to_begins_anew(tmp_path: Path) -> None:
    index = embedded(tmp_path / "index")
    fill(index)
    begun = begin(index, tmp_path / "backup")
    with open_index(index) as opened:
        opened.record(published_at="2026-02-02")
    assert backup(index, tmp_path / "backup").id != begun
    restore(embedded(tmp_path / "target"), tmp_path / "backup")
    assert_same(contents(embedded(tmp_path / "target")), contents(index))


def test_parts_are_bounded(
    original: Path, tmp_path: Path, target: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.backups.parts.MOST_RECORDS", 2)
    monkeypatch.setattr(backing_up, "WRITE_BATCH", 3)
    written = backup(embedded(original / "index"), tmp_path / "small")
    assert len(written.of("personas", 1)) >= 7
    assert len(written.of("interactions")) == 3
    restore(target, tmp_path / "small")
    assert_same(contents(target), contents(embedded(original / "index")))


def test_a_full_disk(original: Path, folder: Path, tmp_path: Path) -> None:
    index = embedded(original / "index")
    with full_disk(tmp_path / "disk", 300) as disk:
        there = tmp_path / "disk" / "backup"
        disk.fill(leave=20_000)
        with pytest.raises(StorageFullError, match=r"no space left to write .*free some space"):
            backup(index, there)
        assert not (there / MANIFEST).exists()
        target = embedded(tmp_path / "disk" / "target")
        with pytest.raises(StorageFullError, match="free some"):
            restore(target, folder)
        with open_versions(target) as versions:
            assert versions.live() is None
        disk.free()
        backup(index, there)
        restore(target, there)
        assert_same(contents(target), contents(index))


def test_an_index_that_is_in_use_leaves_no_folder(tmp_path: Path) -> None:
    index = embedded(tmp_path / "index")
    with open_index(index, encoder=HashEncoder(), create=True), pytest.raises(IndexLockedError):
        backup(index, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- items that are being written --------------------------------------------------------------


def points(number: int, generation: int) -> list[Point]:
    item = ItemVectors("one", personas(f"v{generation}", number), rows(generation, number))
    return make_points(item, generation=generation, dimension=DIMENSION, max_personas=7)


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        (points(3, 1), 3),
        ([*points(2, 5), *points(4, 1)[2:]], 2),  # the old ones are not deleted yet
        (points(4, 5)[:2], 0),  # the new ones are not all there
        ([*points(4, 5)[:2], *points(3, 1)[2:]], 0),
    ],
)
def test_what_a_killed_writer_left(held: list[Point], whole: int) -> None:
    index = MemoryIndex()
    for one in held:
        if len(held) != 3:
            one.payload[UNSETTLED] = 1
    index.engine.upsert(held)
    items, torn = whole_items(index.engine, ["one"], pauses_s=())
    found = [one for own in items for one in own]
    assert len(found) == whole
    assert torn == ([] if whole else ["one"])
    assert all(UNSETTLED not in one.payload for one in found)


def test_an_item_that_is_replaced_meanwhile_is_read_again() -> None:
    index = MemoryIndex()
    index.engine.upsert([*points(2, 5), *points(4, 1)[2:]])
    read = index.engine.points_of
    calls = 0

    def settles(item_ids: list[str]) -> list[Point]:
        nonlocal calls
        calls += 1
        if calls == 3:
            index.engine.delete(["one"], older_than=5)
        return read(item_ids)

    index.engine.points_of = settles  # type: ignore[method-assign, assignment]
    [found], torn = whole_items(index.engine, ["one"], pauses_s=(0, 0, 0, 0))
    assert ([one.payload["generation"] for one in found], torn, calls) == ([5, 5], [], 3)


def test_an_item_whose_points_are_written_while_they_are_read_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = MemoryIndex()
    index.engine.upsert(points(1, 1))
    read = index.engine.points_of
    reads = iter(range(9))
    monkeypatch.setattr(index.engine, "points_of", lambda ids: read(ids if next(reads) else []))
    [found], torn = whole_items(index.engine, ["one", "deleted"], pauses_s=(0, 0, 0))
    assert ([one.payload["item_id"] for one in found], torn) == (["one"], [])


# --- the two ends of a copy --------------------------------------------------------------------


@pytest.fixture
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_QDRANT__URL", "https://own.example:6333")
    monkeypatch.setenv("P4R_QDRANT__API_KEY", "secret")
    monkeypatch.setenv("P4R_QDRANT__GRPC_PORT", "7000")
    monkeypatch.setenv("OTHER", "other-secret")


@pytest.mark.usefixtures("_variables")
def test_a_key_goes_only_where_it_belongs() -> None:
    own = Place("https://own.example:6333/").settings().qdrant
    assert own.api_key is not None
    assert (own.api_key.get_secret_value(), own.grpc_port) == ("secret", 7000)
    away = Place("https://away.example:9000", "books").settings().qdrant
    assert (away.api_key, away.grpc_port, away.collection) == (None, 9001, "books")
    keyed = Place("https://away.example", None, "OTHER").settings().qdrant
    assert keyed.api_key is not None
    assert (keyed.api_key.get_secret_value(), keyed.grpc_port) == ("other-secret", 6334)
    here = Place("some/folder").settings().qdrant
    assert (here.url, here.path) == (None, Path("some/folder"))
    for collection, key in (("books", None), (None, "OTHER")):
        with pytest.raises(InputError, match="some/folder is a folder"):
            Place("some/folder", collection, key).settings()
    with pytest.raises(InputError, match="MISSING is not set"):
        Place("https://away.example", None, "MISSING").settings()
    with pytest.raises(SettingsError, match="must look like"):
        Place("https://away.example:port").settings()


def test_a_copy_leaves_nothing_behind(original: Path, tmp_path: Path, target: Settings) -> None:
    index = embedded(original / "index")
    work = tmp_path / "work"
    with pytest.raises(InputError, match="both ends of the copy are"):
        copy(index, index, work)
    assert copy(index, target, work).before == ""
    assert list(work.iterdir()) == []
    assert_same(contents(target), contents(index))
    with pytest.raises(InputError, match="holds versions already"):
        copy(index, target, work)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_copy_that_was_killed_after_its_switch(
    original: Path, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    index, work = embedded(original / "index"), tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(BackupFolder, "remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            copy(index, target, work, force=force)
    assert copy(index, target, work, force=force).before == ""
    assert list(work.iterdir()) == []
    assert_same(contents(target), contents(index))
