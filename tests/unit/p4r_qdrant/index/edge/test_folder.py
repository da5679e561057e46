"""The folder of an embedded index: made by one process, and damaged by a failing machine."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge

from indexer.checking import check_index, index_versions
from p4r_qdrant import PersonaIndex, open_index
from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
)
from p4r_qdrant.index.checking import problems
from p4r_qdrant.index.edge.folder import EdgeFolder
from p4r_qdrant.index.edge.sums import BLOCK, FileSums
from p4r_qdrant.index.edge.versions import EdgeVersions
from p4r_qdrant.index.payload import Point, point_id
from tests.support.damage import flip
from tests.support.engines import embedded, opened
from tests.support.index_data import USER, personas, rows
from tests.support.memory_index import MemoryIndex
from tests.support.messages import sentence
from tests.support.oracle import DIMENSION, Catalogue, assert_congruent

CATALOGUE = Catalogue({f"i{n}": rows(n, 3) for n in range(20)})


def ask(index: PersonaIndex) -> None:
    assert_congruent(index, CATALOGUE, np.stack([USER]), [list(CATALOGUE.vectors)])
    names = {"language": {"not": "xx"}}
    assert_congruent(index, CATALOGUE, np.stack([USER]), [list(CATALOGUE.vectors)], names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed index of 20 items. A test leaves it as it was."""
    path = tmp_path_factory.mktemp("index") / "index"
    with opened(embedded(path)) as index:
        index.load(CATALOGUE.rows())
    return path


# --- one process makes it ------------------------------------------------------------------------


def test_who_comes_while_the_folder_is_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, each deleted the shard that the other had just made."""
    create, making, go = EdgeFolder.create, threading.Event(), threading.Event()

    def slow(self: EdgeFolder, *arguments: object) -> object:
        making.set()
        assert go.wait(60)
        return create(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(EdgeFolder, "create", slow)
    settings = embedded(tmp_path / "index")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(opened, settings)
        assert making.wait(60)
        with pytest.raises(IndexLockedError) as caught:
            opened(settings)
        assert "another process" in sentence(caught)
        with pytest.raises(IndexMismatchError):
            open_index(settings)
        go.set()
        with first.result() as index:
            assert index.replace_item("a", personas("a", 1), rows(1, 1))
    with opened(settings) as index:
        assert index.get("a")


def test_a_folder_that_cannot_be_opened_is_released(tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    opened(settings).close()
    for _ in range(2):
        with pytest.raises(IndexMismatchError):
            opened(settings, dimension=3)
    with pytest.raises(IndexMismatchError):
        open_index(embedded(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / ".lock").symlink_to(tmp_path / "planted")
    with pytest.raises(InputError, match="a link that is not followed"):
        opened(embedded(tmp_path / "index"))
    assert not (tmp_path / "planted").exists()


def test_a_version_that_is_open_is_not_dropped(tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    with EdgeVersions(settings) as versions:
        with opened(settings), pytest.raises(IndexLockedError):
            versions.drop("first")
        (shard,) = (tmp_path / "index").glob("shard-*")
        earlier_release = qdrant_edge.EdgeShard.load(str(shard))
        with pytest.raises(IndexLockedError):
            versions.drop("first")
        earlier_release.close()
        with versions.sole_writer("first"):  # a publish that has closed it, and will switch to it
            with pytest.raises(IndexLockedError) as caught:
                versions.drop("first")
            sentence(caught)
            with pytest.raises(IndexLockedError), versions.sole_writer("first"):
                pass
        versions.drop("first")
        with pytest.raises(IndexMismatchError):
            versions.drop("first")
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_what_was_deleted_scores_no_more(tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    with opened(settings) as index:
        index.load(CATALOGUE.rows())
        before = index.written()
        index.replace_item("i1", personas("i1", 1), rows(1, 1))
        index.delete_unchanged({one: before[one] for one in ("i0", "i1")})
    for _ in range(2):
        with open_index(settings) as index:
            [[first, second]] = index.best_personas([USER], [["i0", "i1"]], explain=0)
            assert (first.item_id, second.score) == ("i1", None)


# --- damage --------------------------------------------------------------------------------------


def places(path: Path) -> set[int]:
    """Places of the first and of the last byte that is not zero."""
    found = np.flatnonzero(np.fromfile(path, np.uint8)).tolist()
    return {found[0], found[-1]} if found else set()


def test_each_damage_of_each_file_is_one_sentence(folder: Path) -> None:
    kinds = {one.name: one for one in (folder / "shard-1").rglob("*") if one.is_file()}
    assert len(kinds) > 15
    for path in [folder / "manifest.json", *kinds.values()]:
        for place in places(path):
            flip(path, place)
            refused(folder)
            flip(path, place)
        aside = path.with_name("aside")
        path.rename(aside)
        refused(folder)
        if path.parent != folder:
            path.write_bytes(aside.read_bytes()[: aside.stat().st_size // 2])
            refused(folder)
        aside.rename(path)
    with open_index(embedded(folder)) as index:
        ask(index)


def refused(folder: Path) -> None:
    with pytest.raises((IndexUnavailableError, IndexMismatchError)) as caught:
        open_index(embedded(folder))
    assert str(folder) in sentence(caught)


def test_what_is_derived_is_made_again(folder: Path) -> None:
    used = 60 * CATALOGUE.vectors["i0"].shape[1] * 4
    for name, place in (("rows.bin", 0), ("rows.bin", used - 1), ("rows.json", 40)):
        flip(folder / name, place)
        with open_index(embedded(folder)) as index:
            ask(index)
    (folder / "sums.json").write_text("{}")
    for _ in range(2):
        with open_index(embedded(folder)) as index:
            ask(index)
    assert len((folder / "sums.json").read_text()) > 1000


def test_checksums_are_set_aside_while_the_folder_is_open(folder: Path) -> None:
    with open_index(embedded(folder)) as index:
        assert not (folder / "sums.json").exists()
        assert (folder / "sums.before.json").exists()
        ask(index)
    assert (folder / "sums.json").exists()
    assert not (folder / "sums.before.json").exists()


def killed(folder: Path, copy: Path) -> Path:
    """A copy of the folder as kill -9 leaves it, with the times of its files."""
    with open_index(embedded(folder)):
        return shutil.copytree(folder, copy)


def test_after_a_kill_the_files_that_nobody_wrote_to_are_compared(
    folder: Path, tmp_path: Path
) -> None:
    copy = killed(folder, tmp_path / "copy")
    (segment,) = copy.glob("shard-1/segments/*/segment.json")
    times = segment.stat()
    flip(segment, 5)
    os.utime(segment, ns=(times.st_atime_ns, times.st_mtime_ns))  # a failing disk tells nobody
    with pytest.raises(IndexUnavailableError, match="differs from its checksum"):
        open_index(embedded(copy))
    flip(segment, 5)  # written to by the process that was killed
    with open_index(embedded(copy)) as index:
        ask(index)
    assert (copy / "sums.json").exists()


@pytest.mark.parametrize(("position", "sentence"), [(1, "'i3' has lost"), (0, "2 personas are of")])
def test_after_a_kill_a_lost_point_is_found_out(
    position: int, sentence: str, folder: Path, tmp_path: Path
) -> None:
    copy = killed(folder, tmp_path / "copy")
    (copy / "rows.json").unlink()
    shard = qdrant_edge.EdgeShard.load(str(next(copy.glob("shard-*"))))
    shard.update(qdrant_edge.UpdateOperation.delete_points([point_id("i3", position)]))
    shard.flush()
    shard.close()
    with open_index(embedded(copy)) as index, pytest.raises(IndexUnavailableError, match=sentence):
        index.best_personas([USER], [["i3"]])


def test_p4r_check_verifies_an_index_folder(folder: Path) -> None:
    versions = index_versions(folder)
    assert versions is not None
    report = check_index(versions)
    assert [(one.name, one.records, one.broken) for one in report.files] == [("first", 60, 0)]
    (segment,) = folder.glob("shard-1/segments/*/segment.json")
    flip(segment, 5)
    report = check_index(versions)
    assert report.broken == 1
    assert "segment.json differs from its checksum" in report.refusals.sentences[0]
    flip(segment, 5)
    assert index_versions(folder / "shard-1") is index_versions(folder / "nothing") is None


def test_each_item_of_an_index_is_checked() -> None:
    index = MemoryIndex(dimension=DIMENSION)
    index.load(CATALOGUE.rows())
    assert list(problems(index.engine)) == []

    def point(item: str, position: int) -> Point:
        return index.points[point_id(item, position)]

    del index.points[point_id("i1", 2)]
    del index.points[point_id("i2", 0)]
    del point("i3", 1).payload["name"]
    point("i4", 1).payload["content_hash"] = "3-x"
    point("i5", 1).vector[0] += 1
    firsts = [item_id for item_id in CATALOGUE.vectors if item_id != "i2"]
    index.engine.item_ids = lambda: iter(firsts)  # type: ignore[method-assign]
    found = "\n".join(problems(index.engine))
    for problem in (
        "item 'i1' has 2 personas of the 3",
        "2 personas are of items whose first persona is gone",
        "item 'i3' has a persona without 'name'",
        "item 'i4' is half replaced",
        "item 'i5' has a vector that is not of length 1",
    ):
        assert problem in found
    assert found.count("\n") == 4


def test_a_panic_is_one_sentence(tmp_path: Path) -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(IndexUnavailableError) as caught, EdgeFolder(tmp_path).translated():
        raise PanicException("called `Option::unwrap()` on a `None` value\nnote: run with x")
    assert "damaged" in sentence(caught)


def test_a_file_with_holes_and_its_copy_without_have_one_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.seek(3 * BLOCK + 5)
        file.write(b"x" * 10)
        file.truncate(9 * BLOCK + 1)
    FileSums(tmp_path).write([path], all_anew=True)
    [noted] = json.loads((tmp_path / "sums.json").read_text())["files"].values()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    sums = FileSums(tmp_path)
    assert sums.take() == ""
    assert not (tmp_path / "sums.json").exists()
    sums.write([path], all_anew=False)
    [again] = json.loads((tmp_path / "sums.json").read_text())["files"].values()
    assert again[:2] == noted[:2]
    os.truncate(path, len(content) - 1)
    assert "has 294912 bytes, not 294913" in FileSums(tmp_path).take()
