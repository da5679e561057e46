"""The index on a server that is slow, full, killed, or not to be reached at all."""

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from devtools.qdrant_process import PrivateQdrant, QdrantServer
from p4r_qdrant import PersonaIndex, Settings, open_index
from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexUnavailableError,
    SettingsError,
    StorageFullError,
)
from p4r_qdrant.index import replacing
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.server import node
from tests.support.engines import on_server, opened
from tests.support.index_data import USER, personas, rows
from tests.support.messages import sentence
from tests.support.oracle import DIMENSION, Catalogue, assert_congruent, persona
from tests.support.polling import retry
from tests.support.server_writes import (
    Progress,
    check_progress,
    whole,
    write_until_it_fails,
)
from tests.support.small_disk import full_disk


def at(url: str, grpc_port: int, timeout_s: float = 30, key: str | None = "key") -> Settings:
    return Settings.load(
        qdrant={"url": url, "grpc_port": grpc_port, "timeout_s": timeout_s, "api_key": key}
    )


def attempts(index: PersonaIndex) -> list[Callable[[], object]]:
    """Every way in which an index asks its server something."""
    return [
        lambda: index.best_personas([USER], [["a"]]),
        lambda: index.get("a"),
        lambda: index.hashes(["a"]),
        lambda: list(index.items()),
        lambda: index.replace_item("a", personas("x", 1), rows(5, 1)),
        lambda: index.load(Catalogue({"a": rows(5, 1)}).rows()),
        lambda: index.delete_item("a"),
        index.repair,
        index.stats,
    ]


# --- not to be reached ---------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:6333"])
def test_an_unreachable_server_is_found_out_quickly(url: str) -> None:
    """The caller does not wait for the time-out: that would take an hour."""
    with pytest.raises(IndexUnavailableError) as caught:
        opened(at(url, 1, timeout_s=3600, key=None))
    assert url in sentence(caught)
    assert "P4R_QDRANT__URL" in str(caught.value)


@contextmanager
def silent_port() -> Iterator[int]:
    """A port where connections are accepted and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connections.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


def test_a_server_that_never_answers_is_given_up_after_the_time_out() -> None:
    with silent_port() as port, pytest.raises(IndexUnavailableError) as caught:
        opened(at("http://127.0.0.1:1", port, timeout_s=1))
    assert "within 1 s" in sentence(caught)
    assert "P4R_QDRANT__TIMEOUT_S" in str(caught.value)


def test_a_busy_server_gets_the_whole_time_out(
    private_qdrant: PrivateQdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers on no port for longer than a closed port would take."""
    monkeypatch.setattr(node, "PROBE_S", 0.05)
    private_qdrant.start()
    private_qdrant.suspend()
    waking = threading.Timer(1.5, private_qdrant.resume)
    waking.start()
    try:
        with opened(on_server(private_qdrant.server, "personas")) as index:
            assert index.stats().details["transport"] == "gRPC"
    finally:
        waking.join()


def test_a_write_that_is_never_answered_is_given_up_after_the_time_out(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    """Points are written over REST, all else goes over gRPC: one may hang without the other."""
    right = on_server(qdrant_server, collection_name)
    opened(right).close()
    with silent_port() as port:
        half = {"url": f"http://127.0.0.1:{port}", "timeout_s": 1}
        settings = Settings.load(qdrant=right.qdrant.model_dump() | half)
        with open_index(settings) as index:
            with pytest.raises(IndexUnavailableError) as caught:
                index.replace_item("a", personas("a", 2), rows(1, 2))
            assert "within 1 s" in sentence(caught)
            assert index.get("a") == []


def test_rest_alone_is_enough_and_said_once(
    qdrant_server: QdrantServer, collection_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = on_server(qdrant_server, collection_name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        blocked = right.qdrant.model_copy(update={"grpc_port": closed.getsockname()[1]})
        settings = right.model_copy(update={"qdrant": blocked})
        catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(20)})
        catalogue.fields["i3"] = {"language": "en"}
        for _ in range(2):
            with opened(settings) as index:
                index.load(catalogue.rows())
                for wanted in (None, {"language": "en"}):
                    ids = [*catalogue.vectors, "missing"]
                    assert_congruent(index, catalogue, rows(7, 2), [ids, ids[:4]], wanted)
                assert len(index.nearest_items(USER, 3)) == 3
                with_vectors = index.best_personas([USER], [["i1"]], with_vectors=True)[0][0]
                assert with_vectors.vector is not None
                assert index.replace_item("i1", personas("a", 2), rows(1, 2))
                assert index.stats().details["transport"].startswith("REST")
    told = [one.getMessage() for one in caplog.records if "REST alone" in one.getMessage()]
    assert len(told) == 1
    assert "P4R_QDRANT__TRANSPORT=rest" in told[0]
    with opened(right) as index:
        assert index.stats().details["transport"] == "gRPC"


def test_a_wrong_rest_port_is_found_by_the_statistics(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    right = on_server(qdrant_server, collection_name)
    opened(right).close()
    wrong = right.qdrant.model_copy(update={"url": "http://127.0.0.1:1"})
    with (
        open_index(right.model_copy(update={"qdrant": wrong})) as index,
        pytest.raises(IndexUnavailableError) as caught,
    ):
        index.stats()
    assert "REST port" in sentence(caught)


def test_an_index_from_a_snapshot_becomes_live(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    settings = on_server(qdrant_server, collection_name)
    with opened(settings) as index:
        index.replace_item("a", personas("a", 2), rows(1, 2))
        first = index.version
    path = f"/collections/{first}/snapshots"
    snapshot = qdrant_server.request("POST", path, timeout=60)["result"]["name"]
    restored = f"{collection_name}-restored"
    request = urllib.request.Request(
        f"{qdrant_server.url}{path}/{snapshot}", headers={"api-key": qdrant_server.api_key or ""}
    )
    with urllib.request.urlopen(request) as answer:
        files = {"snapshot": answer.read()}
    httpx2.post(
        f"{qdrant_server.url}/collections/{restored}/snapshots/upload?priority=snapshot",
        files=files,
        headers={"api-key": qdrant_server.api_key or ""},
        timeout=60,
    ).raise_for_status()
    with open_versions(settings) as versions:
        assert versions.make_live(restored) == first
        assert versions.live() == restored
    with open_index(settings) as index:
        assert index.version == restored
        assert len(index.get("a")) == 2
    with open_versions(settings) as versions:
        assert versions.roll_back() == first
        with pytest.raises(IndexMismatchError):
            versions.make_live(f"{collection_name}-nothing")


def test_versions_that_are_not_live_are_named(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    settings = on_server(qdrant_server, collection_name)
    with open_versions(settings) as versions:
        version = versions.named("test")
        versions.open(version, IndexMetadata("test", DIMENSION)).close()
        with pytest.raises(IndexMismatchError) as caught:
            versions.open_live()
        assert f"p4r publish --live {version}" in sentence(caught)
        assert versions.make_live(version) is None
        versions.open_live().close()


# --- keys ----------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_and_not_repeated(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    if qdrant_server.api_key is None:
        pytest.skip("the server that P4R_TEST_QDRANT_URL names has no key")
    for key in ("wrong-key-1234", None):
        stranger = QdrantServer(qdrant_server.url, qdrant_server.grpc_port, key)
        with pytest.raises(AuthenticationError) as caught:
            opened(on_server(stranger, collection_name))
        assert "P4R_QDRANT__API_KEY" in sentence(caught)
        assert "wrong-key" not in str(caught.value)


def test_a_read_only_key_reads_and_does_not_write(private_qdrant: PrivateQdrant) -> None:
    private_qdrant.environment["QDRANT__SERVICE__READ_ONLY_API_KEY"] = "only-to-read"
    private_qdrant.start()
    with opened(on_server(private_qdrant.server, "personas")) as index:
        index.replace_item("a", personas("a", 2), rows(1, 2))
    reader = QdrantServer(private_qdrant.url, private_qdrant.grpc_port, "only-to-read")
    with open_index(on_server(reader, "personas"), dimension=DIMENSION) as index:
        assert_congruent(index, Catalogue({"a": rows(1, 2)}), [USER], [["a", "b"]])
        assert len(index.get("a")) == 2
        assert index.stats().personas == 2
        writes: list[Callable[[], object]] = [
            lambda: index.replace_item("a", personas("b", 1), rows(2, 1)),
            lambda: index.replace_item("new", personas("b", 1), rows(2, 1)),
            lambda: index.load(Catalogue({"b": rows(2, 1)}).rows()),
            lambda: index.delete_item("a"),
        ]
        for write in writes:
            with pytest.raises(AuthenticationError) as caught:
                write()
            assert "only-to-read" not in sentence(caught)
        assert [one.persona_id for one in index.get("a")] == ["a_P0", "a_P1"]
    with pytest.raises(AuthenticationError):
        opened(on_server(reader, "another"))


def test_a_key_does_not_travel_unprotected() -> None:
    with pytest.raises(SettingsError) as caught:
        at("http://192.0.2.1:6333", 6334, key="secret-1234")
    assert "unencrypted" in sentence(caught)
    assert "secret-1234" not in str(caught.value)


# --- the collection ------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [None, {"project": "another"}, {"project": "p4r-qdrant"}])
def test_a_collection_of_somebody_else_is_left_alone(
    qdrant_server: QdrantServer, collection_name: str, metadata: dict[str, Any] | None
) -> None:
    made = {"vectors": {"size": DIMENSION, "distance": "Dot"}, "metadata": metadata}
    path = f"/collections/{collection_name}"
    qdrant_server.request("PUT", path, made)
    before = qdrant_server.request("GET", path)["result"]
    with pytest.raises(IndexMismatchError) as caught:
        opened(on_server(qdrant_server, collection_name))
    assert collection_name in sentence(caught)
    after = qdrant_server.request("GET", path)["result"]
    assert after["payload_schema"] == before["payload_schema"] == {}


def test_a_collection_that_a_crash_left_half_made_is_finished(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    settings = on_server(qdrant_server, collection_name)
    opened(settings).close()
    path = f"/collections/{collection_name}"
    whole = qdrant_server.request("GET", path)["result"]["payload_schema"]
    for name in ("slot", "unsettled"):
        qdrant_server.request("DELETE", f"{path}/index/{name}?wait=true")
    opened(settings).close()
    assert qdrant_server.request("GET", path)["result"]["payload_schema"] == whole


def test_two_who_make_the_collection_at_the_same_time_both_get_it(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    settings = on_server(qdrant_server, collection_name)
    barrier = threading.Barrier(4)

    def open_together(number: int) -> None:
        barrier.wait()
        with opened(settings) as index:
            assert index.replace_item(f"item-{number}", personas("p", 2), rows(number, 2))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(open_together, number) for number in range(4)]:
            future.result()
    with opened(settings) as index:
        assert index.stats().items == 4
        made = qdrant_server.request("GET", f"/collections/{collection_name}")["result"]
        assert {"item_id", "slot", "unsettled", "name"} <= set(made["payload_schema"])


def test_a_collection_dropped_under_an_open_index_is_said_to_be_gone(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    with opened(on_server(qdrant_server, collection_name)) as index:
        index.replace_item("a", personas("a", 2), rows(1, 2))
        qdrant_server.request("DELETE", f"/collections/{index.version}")
        for attempt in attempts(index):
            with pytest.raises(IndexMismatchError) as caught:
                attempt()
            assert "is gone" in sentence(caught)


@pytest.mark.parametrize(
    ("made_with", "tolerance"),
    [
        ({"quantization": "binary", "hnsw": True, "on_disk_vectors": True}, 2e-6),
        ({"quantization": "scalar", "on_disk_payload": False, "shards": 2}, 2e-6),
        ({"datatype": "float16"}, 2e-3),
    ],
)
def test_scores_are_exact_however_the_collection_is_stored(
    qdrant_server: QdrantServer, collection_name: str, made_with: dict[str, Any], tolerance: float
) -> None:
    catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(200)})
    with opened(on_server(qdrant_server, collection_name, **made_with)) as index:
        index.load(catalogue.rows())
        users = rows(77, 3)
        assert_congruent(index, catalogue, users, [list(catalogue.vectors)] * 3, None, tolerance)


# --- a server that dies --------------------------------------------------------------------------


def killing(qdrant: PrivateQdrant, step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, before which the server dies."""

    def dies(*arguments: Any, **named: Any) -> Any:
        qdrant.kill()
        return step(*arguments, **named)

    return dies


@pytest.mark.parametrize("steps", [["upsert", "delete"], ["settle", "clear_mark"]])
def test_a_server_killed_between_the_steps_of_a_replacement(
    private_qdrant: PrivateQdrant, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    private_qdrant.start()
    settings = on_server(private_qdrant.server, "personas")
    versions = {"v1": 5, "v2": 2, "v3": 6}
    for number, step in enumerate(steps):
        with opened(settings) as index:
            index.replace_item("a", personas("v1", 5), rows(1, 5))

            owner = replacing if step == "settle" else index.engine
            count = versions[f"v{number + 2}"]
            with monkeypatch.context() as patch:
                patch.setattr(owner, step, killing(private_qdrant, getattr(owner, step)))
                with pytest.raises(IndexUnavailableError) as caught:
                    index.replace_item("a", personas(f"v{number + 2}", count), rows(2, count))
            sentence(caught)
        private_qdrant.start()
        with opened(settings) as index:
            version = whole(index, "a")
            assert len(index.get("a")) == versions[version]
            assert version == ("v1" if step == "upsert" else f"v{number + 2}")
            assert index.repair() == 0


# --- a server without space ----------------------------------------------------------------------


def test_a_full_disk_is_named_and_leaves_every_item_whole(
    private_qdrant: PrivateQdrant, tmp_path: Path
) -> None:
    with full_disk(tmp_path / "disk", megabytes=400) as disk:
        private_qdrant.storage = disk.folder / "storage"
        private_qdrant.environment["QDRANT__STORAGE__WAL__WAL_CAPACITY_MB"] = "1"
        private_qdrant.start()
        progress = Progress()
        with opened(on_server(private_qdrant.server, "personas")) as index:
            for number in range(13):
                index.replace_item(f"item-{number}", personas("v0", 1), rows(0, 1))
                progress.done[f"item-{number}"] = progress.begun[f"item-{number}"] = 0
            disk.fill(leave=1 << 20)
            error = write_until_it_fails(index, 1, progress, {"summary": "word " * 2000})
            assert isinstance(error, StorageFullError), error
            assert private_qdrant.url in str(error)
            disk.fill()
            check_reads(index, progress)
            disk.free()
            private_qdrant.kill()
            private_qdrant.start()
            retry(index.repair, IndexUnavailableError)
            # The gRPC channel finds the server again a moment later than REST does.
            retry(lambda: check_progress(index, progress), IndexUnavailableError)
            assert index.replace_item("item-0", personas("last", 2), rows(1, 2))
            assert whole(index, "item-0") == "last"


def check_reads(index: PersonaIndex, progress: Progress) -> None:
    """Reading needs no space."""
    (ranking,) = index.best_personas([USER], [list(progress.done)])
    assert all(match.persona is not None for match in ranking)
    assert all(index.get(item_id) for item_id in progress.done)


def test_no_proxy_of_the_environment_sees_the_key(
    qdrant_server: QdrantServer, collection_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over plain http everything goes straight to the server."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(0.2)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with opened(on_server(qdrant_server, collection_name)) as index:
            index.replace_item("a", [persona("p")], np.ones((1, DIMENSION)))
            assert index.best_personas(np.ones((1, DIMENSION)), [["a"]])[0][0].persona
        with pytest.raises(TimeoutError):
            proxy.accept()


def test_more_replicas_than_nodes(
    qdrant_server: QdrantServer, collection_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened(on_server(qdrant_server, collection_name, replication=2)).close()
    [warning] = caplog.messages
    assert "has a shard with 1 of P4R_INDEX__REPLICATION=2 replicas" in warning


def test_a_collection_with_fewer_shards_than_asked_for(
    qdrant_server: QdrantServer, collection_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened(on_server(qdrant_server, collection_name, shards=2)).close()
    opened(on_server(qdrant_server, collection_name, shards=1)).close()
    opened(on_server(qdrant_server, collection_name)).close()
    assert not caplog.messages
    opened(on_server(qdrant_server, collection_name, shards=3, replication=1)).close()
    [warning] = caplog.messages
    assert "has shards=2, less than P4R_INDEX__SHARDS=3" in warning
