"""A list of addresses: three real nodes of a cluster, of which one dies and another one hangs."""

import http.server
import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from indexer import doctor
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import AuthenticationError, IndexUnavailableError, SettingsError
from p4r_qdrant.index.server import nodes as health
from p4r_qdrant.index.server import purging
from p4r_qdrant.index.server.cluster import node_states
from tests.support.cluster_load import at_all, check_interactions, load
from tests.support.messages import sentence
from tests.support.polling import wait_until
from tests.support.private_qdrant import private_cluster, private_servers, replicas
from tests.support.serving import (
    AS_ADMIN,
    make_app,
    make_index,
    running,
    with_service,
)


def test_a_node_that_dies_and_one_that_hangs_cost_no_rerank(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with private_cluster(tmp_path, 3) as cluster:
        settings = at_all(cluster, shards=3, replication=3, read_fan_out=1)
        make_index(settings)
        wait_until(lambda: replicas(cluster[0], "personas-hash-encoder-1") == ["Active"] * 9)
        app = make_app(with_service(settings, deadline_ms=2000))
        first = cluster[health._FIRST % 3]  # the one that writes go to
        with running(app) as address:
            with load(address) as found:
                found.wait_for_reranks(50)
                first.kill()
                found.wait_for_reranks(100)
                found.wait_for_writes(1)
                first.start()
                name = "personas-hash-encoder-1"
                wait_until(lambda: set(replicas(first, name)) == {"Active"})
                found.wait_for_reranks(20)
                other = next(one for one in cluster if one is not first)
                other.suspend()
                found.wait_for_reranks(100)
                other.resume()
                found.wait_for_reranks(20)
            assert set(found.reranks) == {"ok"}
            assert any("does not answer" in one for one in caplog.messages)
            metrics = httpx2.get(f"{address}/metrics", headers=AS_ADMIN, timeout=60).text
            [failovers] = re.findall(r"^p4r_qdrant_failovers_total (\S+)$", metrics, re.MULTILINE)
            assert float(failovers) >= 2
            check_interactions(address, found)
            # Without the others, the last node reads and cannot write.
            last = next(one for one in cluster if one not in (first, other))
            first.kill()
            other.kill()
            away = {first.url: "away", other.url: "away"}
            wait_until(lambda: node_states(settings.qdrant) == away | {last.url: "cut_off"})
            ready = {"ready": True, "index": "open", "writes": "unavailable", "encoder": "ready"}
            wait_until(lambda: httpx2.get(f"{address}/readyz", timeout=60).json() == ready)
            metrics = httpx2.get(f"{address}/metrics", headers=AS_ADMIN, timeout=60).text
            assert 'p4r_qdrant_nodes{state="cut_off"} 1.0' in metrics
            with open_index(settings) as index:
                assert index.get("ships")  # reads go on, unless others have to agree
                remains = " ".join(purging._in_snapshots(index.engine._collection))  # type: ignore[attr-defined]
                assert f"{first.url}, which is away" in remains
                assert last.url in index.stats().details["nodes"]
            asking = settings.qdrant.model_copy(update={"read_consistency": "quorum"})
            with (
                open_index(settings.model_copy(update={"qdrant": asking})) as index,
                pytest.raises(IndexUnavailableError),
            ):
                index.get("ships")
            assert "cut off from the majority" in doctor._cluster(settings.qdrant).text


@contextmanager
def some_website() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_addresses_that_do_not_belong_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with private_servers(tmp_path, 2) as (one, other), some_website() as not_qdrant:
        one.start()
        other.start()
        other_key = at_all([one, other])
        with pytest.raises(AuthenticationError) as refused:
            make_index(other_key)
        assert other.url in sentence(refused)
        with pytest.raises(AuthenticationError):
            doctor._cluster(other_key.qdrant)
        assert one.url not in str(refused.value)

        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            away = Settings.load(
                qdrant=at_all([one]).qdrant.model_dump()
                | {"url": f"{one.url},http://127.0.0.1:{port}", "grpc_ports": f"{one.grpc_port},1"}
            )
            with caplog.at_level(logging.WARNING):
                make_index(away)
        assert f"http://127.0.0.1:{port} does not answer" in caplog.text

        wrong = Settings.load(
            qdrant=at_all([one]).qdrant.model_dump()
            | {"url": f"{one.url},http://127.0.0.1:{not_qdrant}", "grpc_ports": ""}
        )
        with pytest.raises(SettingsError, match=f"{not_qdrant} in P4R_QDRANT__URL does not answer"):
            make_index(wrong)


def test_addresses_of_two_clusters(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with private_cluster(tmp_path / "a", 1) as [one], private_servers(tmp_path / "b", 1) as [other]:
        other.environment |= {"QDRANT__SERVICE__API_KEY": one.api_key}
        other.start()
        both = at_all([one, other])
        with pytest.raises(SettingsError, match="not in the cluster"):
            make_index(both)
        with pytest.raises(SettingsError, match="not in the cluster"):
            doctor._cluster(both.qdrant)
