import json
import os
import subprocess
import urllib.error
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from devtools.qdrant_process import PrivateQdrant, QdrantServer
from tests.support.polling import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


@pytest.fixture
def container(qdrant_server: QdrantServer, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `docker inspect` tells about the container that compose started, once it is healthy."""
    if os.environ.get("P4R_TEST_QDRANT_URL"):
        pytest.skip("the server was not started from docker/compose.yaml")
    services = request.getfixturevalue("docker_services")
    ids = services._docker_compose.execute("ps -q qdrant", ignore_stderr=True).decode().split()
    found: list[dict[str, Any]] = []

    def healthy() -> bool:
        answer = subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True)
        found[:] = json.loads(answer.stdout)
        return bool(found[0]["State"]["Health"]["Status"] == "healthy")

    wait_until(healthy, message="the container does not become healthy")
    return found[0]


def test_server_speaks_rest_and_grpc(qdrant_server: QdrantServer, collection_name: str) -> None:
    with_grpc = QdrantClient(
        qdrant_server.url,
        grpc_port=qdrant_server.grpc_port,
        api_key=qdrant_server.api_key,
        prefer_grpc=True,
    )
    vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
    assert with_grpc.create_collection(collection_name, vectors_config=vectors)
    with_grpc.close()
    found = qdrant_server.request("GET", f"/collections/{collection_name}")["result"]
    assert found["config"]["params"]["vectors"]["size"] == 4


def test_server_wants_the_key(qdrant_server: QdrantServer) -> None:
    if qdrant_server.api_key is None:
        pytest.skip("the server that P4R_TEST_QDRANT_URL names has no key")
    stranger = QdrantServer(qdrant_server.url, qdrant_server.grpc_port, "wrong")
    with pytest.raises(urllib.error.HTTPError) as caught:
        stranger.request("GET", "/collections")
    caught.value.close()
    assert caught.value.code == 401


def test_compose_file_keeps_the_container_on_a_short_leash(container: dict[str, Any]) -> None:
    assert container["Config"]["User"] == "1000:1000"
    assert "QDRANT__TELEMETRY_DISABLED=true" in container["Config"]["Env"]
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    published = container["NetworkSettings"]["Ports"].values()
    assert {each["HostIp"] for ports in published if ports for each in ports} == {"127.0.0.1"}


def test_private_server_keeps_ports_and_data_through_a_crash(private_qdrant: PrivateQdrant) -> None:
    private_qdrant.start()
    vectors = {"size": 2, "distance": "Dot"}
    private_qdrant.server.request("PUT", "/collections/kept", {"vectors": vectors})
    point = {"id": 1, "vector": [1.0, 2.0]}
    private_qdrant.server.request("PUT", "/collections/kept/points?wait=true", {"points": [point]})
    private_qdrant.kill()
    assert not private_qdrant.server.is_ready()
    private_qdrant.start()
    count = private_qdrant.server.request("POST", "/collections/kept/points/count", {})
    assert count["result"]["count"] == 1
    private_qdrant.stop()
    assert not private_qdrant.server.is_ready()
