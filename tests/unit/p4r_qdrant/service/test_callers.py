"""What callers and proxies in between may do: gzip, HEAD, CORS, a path prefix."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

from pydantic import ValidationError
from starlette.testclient import TestClient

from p4r_qdrant.settings import ServiceSettings
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.serving import AS_ADMIN, CATALOGUE, DIMENSION, make_app, make_index, with_service

Serve = Callable[..., TestClient]
BODY = json.dumps({"users": [{"candidates": list(CATALOGUE)}]}).encode()
JSON = {"Content-Type": "application/json"}
PACKED = {**JSON, "Content-Encoding": "gzip"}
PAGE = {"Origin": "https://shop.example"}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts the service with settings of its own; the client sends the admin key."""
    base = embedded(tmp_path_factory.mktemp("made") / "index")
    make_index(base)
    open_now: list[TestClient] = []

    def start(**own: Any) -> TestClient:
        while open_now:
            open_now.pop().__exit__(None, None, None)
        client = TestClient(
            make_app(with_service(base, **own), HashEncoder(DIMENSION)), headers=AS_ADMIN
        )
        client.__enter__()
        open_now.append(client)
        return client

    yield start
    for client in open_now:
        client.__exit__(None, None, None)


def test_a_body_may_be_packed(serve: Serve) -> None:
    client = serve()
    plain = client.post("/v1/rerank", content=BODY, headers=JSON)
    for name in ("gzip", "GZIP", "x-gzip"):
        packed = client.post(
            "/v1/rerank", content=gzip.compress(BODY), headers={**JSON, "Content-Encoding": name}
        )
        assert packed.status_code == 200, packed.text
        assert packed.json()["rankings"] == plain.json()["rankings"]
    same = client.post("/v1/rerank", content=BODY, headers={**JSON, "Content-Encoding": "identity"})
    assert same.status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (gzip.compress(b" " * (64 << 20)), 413, "more than 4194304 bytes"),
        (gzip.compress(gzip.compress(BODY)), 400, "no UTF-8"),
        (gzip.compress(BODY)[:-9], 400, "not one complete gzip member"),
        (gzip.compress(BODY) + b"more", 400, "not one complete gzip member"),
        (BODY, 400, "not valid gzip"),
        (b"", 400, "not one complete gzip member"),
        (gzip.compress(b"[" * 100_000), 422, "nested deeper"),
    ],
    ids=["bomb", "twice", "cut off", "with a tail", "plain", "empty", "deep"],
)
def test_packed_bodies_that_are_refused(
    serve: Serve, content: bytes, status: int, said: str
) -> None:
    response = serve().post("/v1/rerank", content=content, headers=PACKED)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x" * 1000])
def test_another_encoding_is_refused_with_what_to_send(serve: Serve, encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    response = serve().post("/v1/rerank", content=BODY, headers=headers)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip"
    assert "send gzip" in response.json()["error"]["message"]


def test_without_a_key_nothing_is_unpacked(serve: Serve) -> None:
    headers = {**PACKED, "Authorization": "Bearer wrong"}
    assert serve().post("/v1/rerank", content=b"no gzip", headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_head(serve: Serve, path: str) -> None:
    client = serve()
    read, asked = client.get(path), client.head(path)
    assert asked.status_code == read.status_code
    assert asked.headers["content-length"] == read.headers["content-length"]
    assert not asked.content


def test_no_web_page_may_call_unless_it_is_named(serve: Serve) -> None:
    asks = {**PAGE, "Access-Control-Request-Method": "POST"}
    client = serve()
    assert "access-control-allow-origin" not in client.options("/v1/rerank", headers=asks).headers
    assert "access-control-allow-origin" not in client.get("/healthz", headers=PAGE).headers

    client = serve(cors_origins="https://shop.example, http://localhost:3000")
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    asked = client.options("/v1/rerank", headers=asks)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE["Origin"]
    wrong_key = client.get("/metrics", headers={**PAGE, "Authorization": "Bearer wrong"})
    assert wrong_key.status_code == 401
    assert wrong_key.headers["access-control-allow-origin"] == PAGE["Origin"], (
        "the page may read it"
    )
    stranger = client.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("prefix", ["", "/shop/p4r"])
def test_a_proxy_may_strip_its_prefix_or_not(serve: Serve, prefix: str) -> None:
    client = serve(root_path="/shop/p4r")
    assert client.get(f"{prefix}/healthz").status_code == 200
    answer = client.post(f"{prefix}/v1/rerank", content=BODY, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert client.get(f"{prefix}/v1/items/no%2Fsuch/personas").status_code == 404
    assert client.get(f"{prefix}/docs/assets/swagger-ui.css").status_code == 200
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/shop/p4r"}]


@pytest.mark.parametrize(
    "own",
    [
        {"root_path": "p4r"},
        {"root_path": "/p4r/"},
        {"root_path": "//p4r"},
        {"cors_origins": "shop.example"},
        {"cors_origins": "https://shop.example/path"},
        {"cors_origins": "null"},
    ],
)
def test_settings_that_cannot_be_right(own: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings.model_validate(own)
