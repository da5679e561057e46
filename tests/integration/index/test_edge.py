"""The embedded index: kill -9, one process at a time, rows, optimizing, disks that are full."""

import json
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge

from p4r_qdrant import open_index
from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    SettingsError,
    StorageFullError,
)
from p4r_qdrant.index import replacing
from p4r_qdrant.index.edge import engine
from p4r_qdrant.index.edge import shards as shards_module
from p4r_qdrant.index.edge.matrix import FIRST_ROWS, ScoreMatrix
from p4r_qdrant.index.matching import ATTEMPTS
from tests.support.background import in_background
from tests.support.edge_process import ITEMS, vectors_of, version
from tests.support.edge_runner import USERS, check_versions, process
from tests.support.engines import embedded, opened
from tests.support.index_data import USER, personas, rows
from tests.support.messages import sentence
from tests.support.oracle import DIMENSION, Catalogue, assert_congruent
from tests.support.small_disk import full_disk


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("shard-*"))


# --- kill -9 -------------------------------------------------------------------------------------


def test_a_kill_while_the_folder_is_being_made_can_be_made_good(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for _ in range(4):
        with process(folder, "hold") as maker:
            assert maker.read("start")
            threading.Event().wait(random.random() / 10)
            maker.kill()
        with opened(embedded(folder)) as index:
            index.replace_item("a", personas("a", 2), rows(1, 2))
        shutil.rmtree(folder)
    folder.mkdir()
    half = qdrant_edge.EdgeShard.create(
        str(folder / "shard-1"),
        qdrant_edge.EdgeConfig(
            vectors=qdrant_edge.EdgeVectorParams(size=3, distance=qdrant_edge.Distance.Dot)
        ),
    )
    with pytest.raises(IndexMismatchError) as nothing:
        open_index(embedded(folder))
    assert "no persona index" in sentence(nothing)
    with pytest.raises(IndexLockedError):
        opened(embedded(folder))
    half.close()
    with opened(embedded(folder)) as index:
        index.replace_item("a", personas("a", 2), rows(1, 2))


@pytest.mark.parametrize("rows_are_there", [True, False])
def test_an_item_in_between_is_settled_when_the_folder_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_are_there: bool
) -> None:
    for step in ("delete", "settle", "clear_mark"):
        folder = tmp_path / step
        with opened(embedded(folder)) as index:
            index.replace_item("a", personas("old", 5), rows(1, 5))

            def killed(*arguments: object, **named: object) -> None:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(replacing if step == "settle" else index.engine, step, killed)
                with pytest.raises(KeyboardInterrupt):
                    index.replace_item("a", personas("a", 2), rows(2, 2))
            assert index.get("a")
            assert index.hashes(["a"]) == {}
        if not rows_are_there:
            (folder / "rows.json").unlink()
        with open_index(embedded(folder)) as index:
            assert [one.persona_id for one in index.get("a")] == ["a_P0", "a_P1"]
            assert set(index.hashes(["a"])) == {"a"}
            assert_congruent(index, Catalogue({"a": rows(2, 2)}), USERS, [["a"]] * 3)


# --- one process at a time -----------------------------------------------------------------------


def test_a_second_opener_is_told_at_once_that_the_folder_is_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with process(folder, "hold") as holder:
        assert holder.read("open"), holder.last
        for create in (True, False):
            with pytest.raises(IndexLockedError) as caught:
                opened(embedded(folder)) if create else open_index(embedded(folder))
            assert str(folder) in sentence(caught)
            assert "another process" in str(caught.value)
        holder.kill()
    with opened(embedded(folder)) as index:
        with pytest.raises(IndexLockedError):
            open_index(embedded(folder))
        with process(folder, "hold") as second:
            assert second.read("error")
            assert "IndexLockedError" in second.last
            assert second.end() == 0
        assert index.replace_item("a", personas("a", 1), rows(1, 1))
    open_index(embedded(folder)).close()


def test_what_one_process_built_the_next_one_reads(tmp_path: Path) -> None:
    with process(tmp_path / "index", "load") as builder:
        assert builder.read("done", 2 * ITEMS)
        builder.kill()
    with open_index(embedded(tmp_path / "index")) as index:
        check_versions(index, builder.begun, builder.done)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "index", moved)
    with open_index(embedded(moved)) as index:
        check_versions(index, builder.begun, builder.done)


# --- the rows beside the shard -------------------------------------------------------------------


def test_rows_are_trusted_only_when_they_were_saved_whole(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    directory, matrix = folder / "rows.json", folder / "rows.bin"
    catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(60)})
    with opened(embedded(folder)) as index:
        index.load(catalogue.rows())
        assert not directory.exists()
    assert directory.exists()
    good = directory.read_text()
    one_item = {
        "dimension": DIMENSION,
        "dtype": "float32",
        "used": 99_999,
        "places": {"i1": [0, 1]},
    }

    def asked() -> None:
        with open_index(embedded(folder)) as index:
            assert_congruent(index, catalogue, USERS, [list(catalogue.vectors)] * 3)

    asked()
    assert directory.read_text() == good, "reading changes nothing"
    for wrong in ("", "{", "[]", "null", "{}", json.dumps(one_item), good[:-2]):
        directory.write_text(wrong)
        asked()
        assert json.loads(directory.read_text())["used"] == 234
    for size in (0, 100):
        os.truncate(matrix, size)
        asked()
    matrix.unlink()
    asked()
    directory.unlink()
    matrix.write_bytes(b"\xff" * 10_000_000)
    asked()
    assert matrix.stat().st_size < 1_000_000, "a file that was too large stays so"
    with open_index(embedded(folder)) as index:
        index.delete_item("i1")
        assert not directory.exists()
    del catalogue.vectors["i1"]
    asked()


def test_many_replacements_do_not_make_the_rows_grow_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(embedded(folder)) as index:
        for number in range(500):
            index.replace_item("a", personas(f"v{number}", 7), rows(number, 7))
    for _ in range(2):
        with open_index(embedded(folder)) as index:
            catalogue = Catalogue({"v499": rows(499, 7)})
            (ranking,) = index.best_personas([USER], [["a"]])
            unit = catalogue.vectors["v499"] / np.linalg.norm(rows(499, 7), axis=1, keepdims=True)
            best = (unit @ USER).max() / np.linalg.norm(USER)
            assert ranking[0].score == pytest.approx(best, abs=2e-6)
            # Already while it was open: a server runs for months.
            assert json.loads((folder / "rows.json").read_text())["used"] <= 2 * 7 + FIRST_ROWS


@pytest.mark.parametrize(
    "made_with", [{"datatype": "float16"}, {"on_disk_vectors": True}, {"hnsw": True}]
)
def test_scores_are_exact_however_the_vectors_are_stored(
    tmp_path: Path, made_with: dict[str, Any]
) -> None:
    settings = embedded(tmp_path / "index", **made_with)
    tolerance = 2e-3 if "datatype" in made_with else 2e-6
    fields = {f"i{n}": {"even": n % 2 == 0, "n": n} for n in range(300)}
    catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(300)}, fields)
    asked = [list(catalogue.vectors)] * 3
    with opened(settings) as index:
        index.load(catalogue.rows())
        for wanted in (None, {"n": {"lt": 200}}):
            assert_congruent(index, catalogue, USERS, asked, wanted, tolerance)
    with open_index(settings) as index:
        assert_congruent(index, catalogue, USERS, asked, None, tolerance)
        index.optimize()
        for wanted in (None, {"n": {"lt": 200}}):
            assert_congruent(index, catalogue, USERS, asked, wanted, tolerance)
    (tmp_path / "index" / "rows.json").unlink()
    with open_index(settings) as index:
        assert_congruent(index, catalogue, USERS, asked, None, tolerance)


def test_what_only_a_server_can_do_is_refused(tmp_path: Path) -> None:
    for wrong in ({"shards": 2}, {"replication": 2}, {"quantization": "scalar"}):
        with pytest.raises(SettingsError) as caught:
            opened(embedded(tmp_path / "index", **wrong))
        assert "P4R_QDRANT__URL" in sentence(caught)
    assert not (tmp_path / "index").exists()


# --- optimizing ----------------------------------------------------------------------------------


def test_optimizing_disturbs_neither_readers_nor_writers(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    steady = Catalogue({f"steady-{n}": rows(n, 1 + n % 7) for n in range(200)})
    written: dict[str, int] = {}
    with opened(embedded(folder)) as index:
        index.load(steady.rows())
        number = 0

        def read() -> None:
            assert_congruent(index, steady, USERS, [list(steady.vectors)[:50]] * 3)
            assert_congruent(index, steady, USERS, [list(steady.vectors)[:5]] * 3, {})
            assert len(index.get("steady-6")) == 7
            index.best_personas(USERS, [["moving-1", "steady-1"]] * 3, {"no": "such"})

        def write() -> None:
            nonlocal number
            number += 1
            item = version(f"moving-{number % 20}", number)
            if number % 9 == 0:
                index.delete_item(item.item_id)
                written.pop(item.item_id, None)
            else:
                index.replace_item(item.item_id, item.personas, item.vectors)
                written[item.item_id] = number

        with in_background(read), in_background(write), in_background(lambda: list(index.items())):
            for _ in range(2):
                index.optimize()
        assert len(shards(folder)) == 1
        for again in range(2):
            moving = {item_id: vectors_of(last) for item_id, last in written.items()}
            for item_id, last in written.items():
                names = [one.persona_id for one in version(item_id, last).personas]
                assert [one.persona_id for one in index.get(item_id)] == names, again
            assert index.stats().items == len(moving) + 200
            both = Catalogue(steady.vectors)
            assert_congruent(index, both, USERS, [list(both.vectors)] * 3)
            if not again:
                index.close()
                index = open_index(embedded(folder))
        index.close()
    assert len(shards(folder)) == 1


def test_an_item_that_is_replaced_after_every_score_is_whole_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes give it seven personas, of which the last is the nearest, and one, in turn."""
    settings = embedded(tmp_path / "index")
    with opened(settings) as index, ThreadPoolExecutor(1) as writer:
        seven = np.array([-USER] * 6 + [USER], np.float32)
        writes: list[Future[object]] = []

        def write() -> None:
            own = rows(1, 1) if len(writes) % 2 else seven
            names = personas(f"v{len(writes)}", len(own))
            writes.append(writer.submit(index.replace_item, "moving", names, own))
            is_last = len(writes) > ATTEMPTS  # then it waits for the reader
            wait([writes[-1]], timeout=0.2 if is_last else 60)

        write()
        score = index.engine.best_points

        def scored(*asked: Any) -> Any:
            found = score(*asked)
            write()
            return found

        monkeypatch.setattr(index.engine, "best_points", scored)
        [[match]] = index.best_personas([USER], [["moving"]])
        assert match.persona is not None
        assert match.persona.persona_id == f"v{ATTEMPTS - 1}_P6"
        assert match.score == pytest.approx(1, abs=1e-5)
        assert len(writes) == 1 + ATTEMPTS


def test_one_optimizer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(embedded(tmp_path / "index")) as index:
        index.load(Catalogue({f"i{n}": rows(n, 3) for n in range(50)}).rows())
        begun, go = threading.Event(), threading.Event()
        rebuild = shards_module.rebuild_shard

        def slow(*args: Any) -> None:
            begun.set()
            assert go.wait(30)
            rebuild(*args)

        monkeypatch.setattr(engine, "rebuild_shard", slow)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(index.optimize)
            assert begun.wait(30)
            with pytest.raises(InputError) as caught:
                index.optimize()
            assert "already" in sentence(caught)
            go.set()
            first.result()
        index.optimize()


def test_an_optimizer_that_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    catalogue = Catalogue({f"i{n}": rows(n, 3) for n in range(50)})
    with opened(embedded(folder)) as index:
        index.load(catalogue.rows())
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            with pytest.raises(IndexUnavailableError) as caught:
                index.optimize()
            assert "optimizing" in sentence(caught)
            patch.setattr(sys, "executable", "/no/such/program")
            with pytest.raises(IndexUnavailableError):
                index.optimize()
        assert shards(folder) == ["shard-1"], "the copy takes space for nothing"
        index.replace_item("new", personas("new", 2), rows(99, 2))
        index.optimize()
        catalogue.vectors["new"] = rows(99, 2)
        assert_congruent(index, catalogue, USERS, [list(catalogue.vectors)] * 3)


def test_closing_while_optimizing_releases_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    catalogue = Catalogue({f"i{n}": rows(n, 3) for n in range(50)})
    index = opened(embedded(folder))
    index.load(catalogue.rows())
    rebuild = shards_module.rebuild_shard

    def closes(*args: Any) -> None:
        rebuild(*args)
        index.close()

    monkeypatch.setattr(engine, "rebuild_shard", closes)
    index.optimize()
    with open_index(embedded(folder)) as again:
        assert_congruent(again, catalogue, USERS, [list(catalogue.vectors)] * 3)
    assert len(shards(folder)) == 1


def test_kill_9_while_optimizing_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    moments = random.Random(1)
    for turn in range(3):
        with process(folder, "optimize", turn) as optimizer:
            assert optimizer.read("optimizing", moments.randrange(1, 3)), optimizer.last
            threading.Event().wait(moments.random() / 2)
            # Once the optimizing process is left alone with its copy.
            optimizer.kill(with_children=turn != 1)
        with open_index(embedded(folder)) as index:
            check_versions(index, {}, optimizer.done)
            index.optimize()
            check_versions(index, {}, optimizer.done)
    with open_index(embedded(folder)):
        assert len(shards(folder)) == 1


# --- disks and folders ---------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """Qdrant Edge writes through sparse memory maps: on a full disk that would be SIGBUS."""
    with full_disk(tmp_path / "disk", megabytes=170) as disk:
        folder = disk.folder / "index"
        with process(folder, "fill") as writer:
            writer.read("error")
            assert "StorageFullError" in writer.last
            assert writer.end() == 0
        disk.fill()
        with process(folder, "hold") as reader:
            assert reader.read("error"), "opened on a disk without a byte"
            assert "StorageFullError" in reader.last
            assert reader.end() == 0
        disk.free()
        with open_index(embedded(folder)) as index:
            last = list(writer.done.items())[-ITEMS:]
            for item_id, number in last:
                names = [one.persona_id for one in version(item_id, number).personas]
                assert [one.persona_id for one in index.get(item_id)] == names
            some = Catalogue({item_id: vectors_of(number) for item_id, number in last})
            users, asked = [USER], [[item_id for item_id, _ in last]]
            (ranking,) = index.best_personas(users, asked)
            unit = USER / np.linalg.norm(USER)
            for match in ranking:
                own = some.vectors[match.item_id]
                best = (own @ unit / np.linalg.norm(own, axis=1)).max()
                assert match.score == pytest.approx(best, abs=2e-6)
            with pytest.raises(StorageFullError) as caught:
                index.optimize()
            assert "free some" in sentence(caught)
            assert len(shards(folder)) == 1
            with pytest.raises(StorageFullError):
                index.replace_item("new", personas("new", 1), rows(1, 1))
            assert index.get("new") == []
            assert index.delete_item(last[0][0]), "what frees space must not want much of it"
            assert index.get(last[0][0]) == []


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder and a user who may read it but not write there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with as_nobody() as parent:
        opened(embedded(parent / "index")).close()
        for path in [parent, *parent.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            for folder in (parent / "index", parent / "new", parent / "index" / "new"):
                with pytest.raises(InputError) as caught:
                    opened(embedded(folder))
                assert str(folder) in sentence(caught)
                assert "P4R_QDRANT__PATH" in str(caught.value)
            parent_hidden = parent / "index"
        finally:
            if root:
                os.seteuid(0)
        parent_hidden.chmod(0o700 if not root else 0o000)
        for path in [parent, *parent.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError) as caught:
            opened(embedded(path))
        assert str(path) in sentence(caught)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(IndexMismatchError) as caught:
        opened(embedded(tmp_path / "letters"))
    assert "something else" in sentence(caught)
    assert [one.name for one in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    (tmp_path / "empty").mkdir()
    opened(embedded(tmp_path / "empty")).close()


BROKEN = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"3",
    b"{}",
    b'{"metadata": {}, "shard": "shard-1"}',
    b'{"metadata": 3, "shard": "shard-1"}',
    b'{"metadata": {"project": "another"}, "shard": "shard-1"}',
    b'{"metadata": {"project": "p4r-qdrant", "format": 2}, "shard": "shard-1"}',
    b'{"metadata": {"project": "p4r-qdrant", "format": 1}, "shard": "shard-1"}',
    b'{"metadata": {"project": "p4r-qdrant", "format": 1}, "shard": "shard-7"}',
    b'{"metadata": {"project": "p4r-qdrant", "format": 1}, "shard": 7}',
    b'{"metadata": {"project": "p4r-qdrant", "format": 1}, "shard": "../index/shard-1"}',
]


def test_a_broken_manifest_is_refused_and_nothing_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    catalogue = Catalogue({"a": rows(1, 3)})
    with opened(embedded(folder)) as index:
        index.load(catalogue.rows())
    manifest = folder / "manifest.json"
    good = manifest.read_bytes()
    for broken in BROKEN:
        manifest.write_bytes(broken)
        for _ in range(2):
            with pytest.raises(IndexMismatchError) as caught:
                opened(embedded(folder))
            assert str(folder) in sentence(caught)
    manifest.write_bytes(good)
    with open_index(embedded(folder)) as index:
        assert_congruent(index, catalogue, USERS, [["a"]] * 3)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(embedded(folder)) as index:
        index.load(Catalogue({"a": rows(1, 3)}).rows())
    (segment,) = (folder / "shard-1" / "segments").glob("*/segment.json")
    segment.write_text("{")
    with pytest.raises(IndexUnavailableError) as caught:
        open_index(embedded(folder))
    assert str(folder) in sentence(caught)


def test_the_rows_are_saved_before_the_folder_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next process might write its own, and this one a directory to them."""
    index = opened(embedded(tmp_path / "index"))
    index.replace_item("a", personas("v", 2), rows(1, 2))
    order: list[str] = []
    save = ScoreMatrix.save

    def saved(self: ScoreMatrix) -> None:
        order.append("saved")
        with pytest.raises(IndexLockedError):
            open_index(embedded(tmp_path / "index"))
        save(self)

    monkeypatch.setattr(ScoreMatrix, "save", saved)
    index.close()
    assert order == ["saved"]
    with open_index(embedded(tmp_path / "index")) as again:
        assert len(again.get("a")) == 2
