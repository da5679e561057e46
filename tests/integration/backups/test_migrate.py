"""`p4r migrate`: a collection from before there were versions becomes one."""

from contextlib import closing
from pathlib import Path

import pytest

from devtools.qdrant_process import QdrantServer
from indexer.backups import restore as restoring
from indexer.backups.migrate import migrate, outdated
from p4r_qdrant import Settings
from p4r_qdrant.errors import IndexMismatchError, InputError, VerificationError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.server.versions import ServerVersions
from p4r_qdrant.users.contracts import FORMAT
from p4r_qdrant.users.opening import open_store
from tests.support.backups import NEW, assert_same, contents, interaction, made_with
from tests.support.edge_process import version
from tests.support.engines import embedded, on_server
from tests.support.kills import Kills


@pytest.fixture
def plain(qdrant_server: QdrantServer, collection_name: str) -> Settings:
    """An index whose collection has the name of the alias, with a user."""
    settings = on_server(qdrant_server, collection_name)
    with open_versions(settings) as versions:
        with versions.open(collection_name, made_with(NEW)) as index:
            index.load([version(f"item-{number}", number) for number in range(9)])
        with pytest.raises(InputError, match=r"is itself a collection.*p4r migrate --backup DIR"):
            versions.check_switch(f"{collection_name}-other")
    with closing(open_store(settings, collection_name, made_with(NEW), settings.history)) as store:
        store.add(interaction("ada", "item-1", 1))
    return settings


def test_a_plain_collection_becomes_a_version(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, folder = contents(plain), tmp_path / "backup"
    assert "is backed up into" in outdated(plain, folder)
    assert not folder.exists()
    kills = Kills(monkeypatch)
    kills.watch(restoring, "_make_room")
    kills.watch(ServerVersions, "switch")
    killed = []
    for _ in kills.rounds():  # before the old one is deleted, and after
        with kills:
            migrate(plain, folder)
        killed.append(kills.killed)
        if len(killed) == 2:
            assert "is made live" in outdated(plain, folder)
    assert killed == [True, True, False]
    live = f"{plain.qdrant.collection}-{NEW}"
    assert_same(contents(plain), before)
    assert outdated(plain, folder) == ""
    with open_versions(plain) as versions:
        assert [one.name for one in versions.all()] == [live]
        versions.check_switch("another")


def test_what_was_written_meanwhile_is_not_deleted(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = restoring._make_room

    def written_before(*arguments: object) -> None:
        with open_versions(plain) as versions, versions.open_live() as index:
            item = version("item-3", 77)
            index.replace_item(item.item_id, item.personas, item.vectors)
        right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(restoring, "_make_room", written_before)
    with pytest.raises(VerificationError, match="was written to after its backup"):
        migrate(plain, tmp_path / "backup")
    with open_versions(plain) as versions:
        assert versions.live() == plain.qdrant.collection
        with versions.open_live() as index:
            assert index.get("item-3")[0].persona_id == "v77_P0"


def test_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert outdated(embedded(tmp_path / "index"), tmp_path / "backup") == ""


def test_newer_users_on_a_server_are_refused(plain: Settings, qdrant_server: QdrantServer) -> None:
    name = plain.qdrant.collection
    body = {"metadata": {"users_format": FORMAT + 1}}
    qdrant_server.request("PATCH", f"/collections/{name}-interactions", body)
    with pytest.raises(IndexMismatchError, match="has format 2, this release reads format 1"):
        open_store(plain, name, made_with(NEW), plain.history)
