"""What is deleted leaves the files of the storage too: index and users, on both engines."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.qdrant_process import PrivateQdrant, start_cluster
from p4r_qdrant import Settings, open_index
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import ItemVectors
from p4r_qdrant.index.server import purging
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.settings import HistorySettings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.records import ItemWork, Job, StoredInteraction
from p4r_qdrant.users.store import UserStore
from tests.support.cluster_load import at_all
from tests.support.engines import embedded, on_server, opened
from tests.support.index_data import USER, rows
from tests.support.oracle import DIMENSION, persona
from tests.support.private_qdrant import QUICK, private_servers
from tests.support.stored_words import files_with

WORD, KEPT = "xylographic-confession", "ordinary-remark"
MADE = IndexMetadata("test", DIMENSION, "by hand")


def items(word: str, start: int, count: int) -> Iterator[ItemVectors]:
    for number in range(start, start + count):
        one = persona(f"{word}-{number}", word)
        yield ItemVectors(f"i{number}", [one], rows(number, 1), {"title": f"{word} {number}"})


def test_deleted_items_leave_the_files_of_the_index(
    place: tuple[Settings, Path], request: pytest.FixtureRequest
) -> None:
    settings, folder = place
    with opened(settings) as index:
        index.load(items(KEPT, 0, 40))
        index.load(items(WORD, 40, 5))
        if settings.qdrant.url is not None:
            server: PrivateQdrant = request.getfixturevalue("quick_qdrant")
            server.server.request("POST", f"/collections/{index.version}/snapshots", {})
        for number in range(40, 44):
            index.delete_item(f"i{number}")
        [replaced] = items(KEPT, 44, 1)
        index.replace_item("i44", replaced.personas, replaced.vectors)
        assert files_with(WORD, folder)
        remains = index.purge()
        if settings.qdrant.url is None:
            assert remains == []
        else:
            assert "1 snapshots hold it until you delete them" in remains[0]
        assert files_with(WORD, folder) == []
        assert files_with(KEPT, folder)
        assert len(index.best_personas([USER], [[f"i{n}" for n in range(45)]])[0]) == 45
    assert files_with(WORD, folder) == []
    with open_index(settings) as index:
        assert index.stats().items == 41
        assert index.get("i7")[0].name == f"Name of {KEPT}-7"


def users_at(settings: Settings) -> UserStore:
    return open_store(settings, "books", MADE, HistorySettings())


def interaction(user: str, number: int, word: str) -> StoredInteraction:
    one = StoredInteraction(user, f"i{number}", number, title=f"T{number}", review_text=word * 3)
    return replace(one, aspects={"theme": word}).encoded(rows(number, 1)[0].astype("float32"))


def test_an_erased_user_leaves_the_files_of_the_store(place: tuple[Settings, Path]) -> None:
    settings, folder = place
    review: dict[str, Any] = {"rating": 5, "timestamp": 1, "item_id": "i1"}
    reviews = [
        review | {"user_id": user, "text": text} for user, text in ((WORD, WORD), ("b", KEPT))
    ]
    with closing(users_at(settings)) as store:
        for number in range(30):
            store.add(interaction("somebody", number, KEPT))
            store.add(interaction(WORD, number, WORD), Job(f"aspects {number}", "aspects", WORD))
        store.jobs.add(ItemWork.model_validate({"item_id": "i1", "reviews": reviews}).job())
        store.erase(WORD)
        for job in store.jobs.due(10):
            if job.kind == "erase":
                store.jobs.finish(job)
        assert store.purge() == []
        assert files_with(WORD, folder) == []
        assert len(store.recent("somebody")) == 10
        assert [one.body["reviews"][0]["user_id"] for one in store.jobs.due(10)] == ["b"]
    assert files_with(WORD, folder) == []
    assert files_with(KEPT, folder)


def test_a_reader_of_the_old_state_is_told_of(tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    with closing(users_at(settings)) as store:
        store.add(interaction(WORD, 1, WORD))
        with closing(sqlite3.connect(tmp_path / "index-users.sqlite")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM interactions").fetchall()
            store._storage._db.execute("PRAGMA busy_timeout = 10")  # type: ignore[attr-defined]
            store.erase(WORD)
            [sentence] = store.purge()
            assert "index-users.sqlite-wal holds it until the process that reads it" in sentence
        assert store.purge() == []


def test_a_killed_purge_leaves_settings_that_the_next_one_restores(
    quick_qdrant: PrivateQdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = on_server(quick_qdrant.server, "books")
    with opened(settings) as index:
        index.load(items(KEPT, 0, 3))
        version = index.version
    connection = Connection(settings.qdrant, "the collection")
    with closing(connection):
        collection = Collection(connection, version, 30)
        before = purging._settings(collection.info())
        for small in (purging.SMALL, 0):
            with monkeypatch.context() as patch:
                patch.setattr(purging, "SMALL", small)
                patch.setattr(purging, "_settled", lambda _: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    purging.purge([collection])
            assert purging._settings(collection.info()) != before
            with monkeypatch.context() as patch:
                patch.setattr(purging, "SMALL", small)
                patch.setattr(purging, "_filled", lambda _: 0)
                purging.purge([collection])
            assert purging._settings(collection.info()) == before


def test_of_a_large_collection_only_what_had_deletions_is_written_anew(
    quick_qdrant: PrivateQdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "SMALL", 0)
    with opened(on_server(quick_qdrant.server, "books")) as index:
        index.load(items(KEPT, 0, 500))
        index.load(items(WORD, 500, 20))
        for number in range(500, 520):
            index.delete_item(f"i{number}")
        [sentence] = index.purge()
        assert "a segment of fewer than 100 points stays in its file" in sentence
    assert files_with(WORD, quick_qdrant.storage) == []


@pytest.mark.long
def test_deleted_items_leave_the_files_of_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "POLL_S", 0.1)
    with private_servers(tmp_path, 3) as nodes:
        for node in nodes:
            node.environment |= QUICK
        start_cluster(nodes)
        with opened(at_all(nodes, shards=2, replication=3)) as index:
            index.load(items(KEPT, 0, 40))
            index.load(items(WORD, 40, 5))
            nodes[1].server.request("POST", f"/collections/{index.version}/snapshots", {})
            for number in range(40, 45):
                index.delete_item(f"i{number}")
            [remains] = index.purge()
            assert "1 snapshots hold it until you delete them" in remains
        for node in nodes:
            assert files_with(WORD, node.storage) == []
            assert files_with(KEPT, node.storage)
