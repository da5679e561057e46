"""Tenants with the same ids in one index: none sees, changes or erases anything of another."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from devtools.qdrant_process import QdrantServer
from indexer.backups.backup import backup
from indexer.backups.restore import restore
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import (
    IndexLockedError,
    IndexMismatchError,
    InputError,
    SettingsError,
    UnknownTenantError,
)
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.index.server.scope import Scope
from p4r_qdrant.settings import naming_tenant
from p4r_qdrant.users.tenants import drop_tenant
from tests.support.engines import embedded, on_server, opened
from tests.support.hash_encoder import HashEncoder
from tests.support.private_qdrant import private_cluster
from tests.support.tenants import (
    DIMENSION,
    WRITES,
    Opened,
    Shop,
    add,
    bytes_of,
    check_apart,
    not_walked,
    tenant,
    two_shops,
)

FAST = settings(
    max_examples=4,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def shops(index_settings: Settings) -> Iterator[tuple[Opened, Opened]]:
    with two_shops(index_settings) as shops:
        yield shops


def test_the_walk_knows_every_way_of_reading_and_writing() -> None:
    assert not_walked() == {}


def test_no_way_of_writing_reaches_another_tenant(shops: tuple[Opened, Opened]) -> None:
    check_apart(*shops, list(WRITES))


@pytest.mark.long
@FAST
@given(writes=st.lists(st.sampled_from(sorted(WRITES)), min_size=1, max_size=4), turn=st.booleans())
def test_no_sequence_of_writes_reaches_another_tenant(
    shops: tuple[Opened, Opened], writes: list[str], turn: bool
) -> None:
    a, b = shops[::-1] if turn else shops
    for one in (a, b):  # what the example before has deleted
        one.fill()
    check_apart(a, b, writes, at_once=1)


def _no_filter(scope: Scope, where: Any = None) -> Any:
    return where or models.Filter()


LEAKS: dict[str, Callable[..., Any]] = {
    "filter": _no_filter,
    "message_filter": lambda _, where: where,
    "uuid": lambda _, plain: str(plain),
    "_salt": property(lambda _: b""),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found(
    leak: str, qdrant_server: QdrantServer, collection_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scope, leak, LEAKS[leak])
    with pytest.raises((AssertionError, IndexMismatchError, UnknownTenantError, KeyError)):
        _walk(on_server(qdrant_server, collection_name))


def _walk(place: Settings) -> None:
    with two_shops(place) as (a, b):
        check_apart(a, b, list(WRITES))


# --- dropping, exporting --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_dropping_a_tenant_leaves_the_bytes_of_another(
    index_settings: Settings, tmp_path: Path
) -> None:
    with two_shops(index_settings) as (a, b):
        gone, kept = a.shop.settings, b.shop.settings
        seen = b.seen()
        if gone.qdrant.url is None:
            with pytest.raises(IndexLockedError):
                drop_tenant(gone)
    before = bytes_of(kept)
    assert len(before) >= 5
    backup(gone, tmp_path / "export")
    drop_tenant(gone)
    assert bytes_of(kept) == before
    with open_tenants(kept) as tenants:
        assert [one.name for one in tenants.all()] == ["shop-b"]
    for again in (lambda: drop_tenant(gone), lambda: open_index(gone)):
        with pytest.raises(UnknownTenantError, match="p4r tenant add shop-a"):
            again()
    with b.shop.opened() as opened:
        assert opened.seen() == seen

    third = tenant(index_settings, "shop-c")  # an export is no longer bound to a tenant
    add(third)
    restore(third, tmp_path / "export")
    with Shop(third, "apple").opened() as restored, b.shop.opened() as other:
        assert other.seen() == seen
        assert len(restored.index.get("ships")) == 2
        assert restored.index.get("ships")[0].name == "apple 0"
        assert restored.users.recent("eve")[0].review_text == "apple"
        assert restored.index.collaborative is not None


def test_a_tenant_whose_files_stay_is_still_listed(tmp_path: Path) -> None:
    own = tenant(embedded(tmp_path / "index"), "shop-a")
    add(own)
    (tmp_path / "elsewhere").mkdir()
    own.folder.symlink_to(tmp_path / "elsewhere")  # which is not deleted through a link
    with pytest.raises(OSError, match="symbolic link"):
        drop_tenant(own)
    with open_tenants(own) as tenants:
        tenants.check("shop-a")


# --- publishing -----------------------------------------------------------------------------------


def test_a_publish_of_one_tenant_does_not_concern_another(shops: tuple[Opened, Opened]) -> None:
    a, b = shops
    other = HashEncoder(DIMENSION, salt="-other")
    name = a.versions.of(other.fingerprint)
    with a.versions.sole_writer(a.index.version), b.versions.sole_writer(b.index.version):
        pass  # a lease of a tenant is no other's
    with a.versions.open(name, IndexMetadata.of(other)) as fresh:
        fresh.replace_item("ships", a.shop.personas("ships"), other.encode_texts(["a", "b"]))
    a.versions.switch({a.versions.alias: name})
    assert a.versions.live() == name
    assert b.versions.live() == b.index.version
    assert [one.name for one in b.versions.all()] == [b.index.version]
    assert b.versions.publishes(b.index.version) == 1
    if a.shop.settings.qdrant.url is not None:  # a folder is in use while somebody has it open
        with pytest.raises(IndexLockedError, match="live version of the tenant 'shop-a'"):
            a.versions.drop(name)
    with pytest.raises(InputError, match="no earlier version"):
        b.versions.roll_back()


# --- a shard of its own ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_promoted_tenant_has_shards_of_its_own(tmp_path: Path) -> None:
    def shards(name: str) -> set[str]:
        info = node.server.request("GET", f"/collections/{name}/cluster")["result"]
        return {one["shard_key"] for one in info["local_shards"]}

    with private_cluster(tmp_path, 1) as [node], two_shops(on_server(node.server, "p")) as (a, b):
        before = a.seen(), b.seen()
        version = a.index.version
        names = [version, f"{version}-columns", f"{version}-users", "p-interactions"]
        assert all(shards(one) == {"shared"} for one in names)
        with open_tenants(a.shop.settings) as tenants:
            moved = tenants.promote("shop-a")
            assert moved.keys() == set(names)
            assert all(moved.values())
            assert tenants.promote("shop-a") == moved, "as after a kill"
        assert all(shards(one) == {"shared", "shop-a"} for one in names)
        for one, seen in zip((a, b), before, strict=True):
            now = one.seen()
            assert {read: now[read] for read in seen if now[read] != seen[read]} == {}
        for shared in names:  # the copies in the shared shards are gone
            where = {"filter": {"must": [{"key": "tenant", "match": {"value": "shop-a"}}]}}
            path = f"/collections/{shared}/points/count"
            found = node.server.request("POST", path, {**where, "shard_key": "shared"})
            assert found["result"]["count"] == 0
        check_apart(a, b, ["load", "delete_item", "add", "erase", "write_collaborative", "finish"])
        stored = bytes_of(b.shop.settings)
        drop_tenant(a.shop.settings)
        assert bytes_of(b.shop.settings) == stored
        assert all(shards(one) == {"shared"} for one in names)


def test_a_single_server_has_no_shards_to_give(index_settings: Settings) -> None:
    own = tenant(index_settings, "shop-a")
    add(own)
    opened(own).close()
    expected = "no cluster" if own.qdrant.url else "has a folder of its own already"
    with open_tenants(own) as tenants, pytest.raises(InputError, match=expected):
        tenants.promote("shop-a")


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "..", "shop\U0001f600", "Shop", "x" * 200_000, "a b"])
def test_a_name_that_no_tenant_can_have(index_settings: Settings, name: str) -> None:
    with pytest.raises(InputError, match="1 to 63 of a-z") as raised:
        tenant(index_settings, name)
    assert len(str(raised.value)) < 200
    with pytest.raises(InputError, match="1 to 63 of a-z"):
        naming_tenant(name).__enter__()
    if name:
        with pytest.raises(SettingsError, match="1 to 63 of a-z"):
            Settings.load(index={"tenants": True, "tenant": name})


def test_an_index_has_tenants_from_its_beginning(index_settings: Settings) -> None:
    with pytest.raises(UnknownTenantError):
        opened(tenant(index_settings, "shop-a"))
    with pytest.raises(InputError, match="P4R_INDEX__TENANTS is not set"):
        open_tenants(index_settings)
    own = tenant(index_settings, "shop-a")
    nobody = own.model_copy(update={"index": own.index.model_copy(update={"tenant": ""})})
    with pytest.raises(InputError, match="no tenant is named"):
        open_versions(nobody)
    off = own.model_copy(update={"index": own.index.model_copy(update={"tenants": False})})
    with pytest.raises(InputError, match="'shop-a' is named, but P4R_INDEX__TENANTS is not set"):
        open_versions(off)
    add(own)
    opened(own).close()
    with pytest.raises(IndexMismatchError, match="made for tenants: set P4R_INDEX__TENANTS=true"):
        opened(index_settings)
    with pytest.raises(IndexMismatchError, match="made for tenants"):
        open_index(index_settings)


def test_an_index_without_tenants_gets_none(index_settings: Settings) -> None:
    opened(index_settings).close()
    own = tenant(index_settings, "shop-a")
    with pytest.raises(IndexMismatchError, match="without tenants: unset P4R_INDEX__TENANTS"):
        add(own)
    with pytest.raises(IndexMismatchError, match="made without tenants"):
        open_index(own)


def test_a_field_named_tenant_is_the_callers_own(index_settings: Settings) -> None:
    own = tenant(index_settings, "shop-a")
    shop = Shop(own, "apple")
    add(own)
    with shop.opened() as one:
        assert "tenant" not in one.index.engine.fields
        with pytest.raises(InputError, match="'tenant'"):
            one.index.replace_item(
                "ships", shop.personas("ships"), shop.vectors("ships"), {"tenant": "shop-b"}
            )
        with pytest.raises(InputError, match="tenant"):
            one.index.nearest_items(shop.vectors("ships")[0], 3, {"tenant": "shop-b"})
