"""Two tenants behind one service: every route, with ids that both have."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from p4r_qdrant import Settings
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service import tenants as module
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.run import check_tenants
from p4r_qdrant.service.state import Service
from p4r_qdrant.settings import ServiceSettings
from p4r_qdrant.users.tenants import drop_tenant
from tests.support.polling import wait_until
from tests.support.serving import AS_ADMIN, AS_READER, make_app, with_service
from tests.support.tenants import ENCODER, ITEMS, Shop, tenant, two_shops

OF_A, OF_B, ADMIN_OF_A = "a" * 20, "b" * 20, "c" * 20
BOUND = {
    "tenant_keys": f"shop-a={OF_A}, shop-b={OF_B}",
    "tenant_admin_keys": f"shop-a={ADMIN_OF_A}",
}
UNKNOWN = ["shop-z", "Shop", "shop%2Fa", "%F0%9F%98%80", "x" * 5000, "", "%2E%2E", "shop-a%00"]


@contextmanager
def served(settings: Settings, **own: Any) -> Iterator[tuple[TestClient, FastAPI]]:
    index = settings.index.model_copy(update={"tenants": True, "tenant": own.pop("default", "")})
    settings = settings.model_copy(update={"index": index})
    app = make_app(with_service(settings, **{**BOUND, **own}), ENCODER)
    with TestClient(app, headers=AS_ADMIN) as client:
        yield client, app


@pytest.fixture
def shops(index_settings: Settings) -> tuple[Shop, Shop]:
    with two_shops(index_settings) as (a, b):
        return a.shop, b.shop


def _user(user_id: str) -> dict[str, Any]:
    return {"user_id": user_id, "candidates": ITEMS}


READS: list[tuple[str, str, str, Any]] = [
    ("POST", "/v1/rerank", "/v1/rerank", {"users": [_user("eve"), _user("max")]}),
    ("POST", "/rerank", "/rerank", {"query": "eve", "documents": ITEMS}),
    ("POST", "/v2/rerank", "/v2/rerank", {"query": "a person", "documents": ITEMS}),
    ("POST", "/v1/search", "/v1/search", {"text": "anything"}),
    ("POST", "/v1/why-not", "/v1/why-not", {"user": _user("eve"), "item_id": "ships", "top": 1}),
    ("GET", "/v1/items/{item_id}/personas", "/v1/items/ships/personas", None),
    ("GET", "/v1/users/{user_id}", "/v1/users/eve", None),
    ("GET", "/v1/users/{user_id}/export", "/v1/users/eve/export", None),
    ("GET", "/v1/recommendations/{user_id}", "/v1/recommendations/eve?seen=true", None),
    ("GET", "/v1/jobs", "/v1/jobs", None),
]


def _writes(word: str) -> list[tuple[str, str, str, Any]]:
    persona = {"persona_id": "p", "name": word, "description": word, "preference_rationale": word}
    review = {"item_id": "ships", "timestamp": 77, "rating": 5, "text": word}
    return [
        ("PUT", "/v1/items/{item_id}", "/v1/items/ships", {"personas": [persona]}),
        ("PUT", "/v1/items/{item_id}", "/v1/items/new", {"title": word}),
        ("DELETE", "/v1/items/{item_id}", "/v1/items/cakes", None),
        ("POST", "/v1/users/{user_id}/interactions", "/v1/users/eve/interactions", review),
        ("DELETE", "/v1/users/{user_id}", "/v1/users/max", None),
    ]


OF_ALL = {"/healthz", "/readyz", "/metrics"}


def _answers(client: TestClient, name: str) -> dict[str, str]:
    found = {}
    for method, route, place, body in READS:
        answer = client.request(method, f"/tenants/{name}{place}", json=body)
        assert answer.status_code == 200, (route, answer.text)
        told = answer.text.replace(answer.headers["x-request-id"], "")
        assert '"degraded":true' not in told.replace(" ", ""), (route, told)
        # a server gives the fields of a payload in any order
        found[route] = "\n".join(
            json.dumps(json.loads(line), sort_keys=True) for line in told.splitlines() if line
        )
    return found


def test_no_route_reaches_another_tenant(
    index_settings: Settings, shops: tuple[Shop, Shop]
) -> None:
    with served(index_settings) as (client, app):
        every = {
            (method.upper(), path)
            for path, methods in app.openapi()["paths"].items()
            for method in methods
            if path not in OF_ALL
        }
        writes = {one.word: _writes(one.word) for one in shops}
        walked = {(method, route) for method, route, *_ in [*READS, *writes["apple"]]}
        assert every == walked - {("POST", "/v2/rerank")}, "a route that this walk does not know"

        apple, birch = _answers(client, "shop-a"), _answers(client, "shop-b")
        assert "birch" not in str(apple)
        assert "apple" not in str(birch)
        spoken = [route for route, told in apple.items() if "apple" in told]
        assert len(spoken) >= len(READS) - 3, "a walk that reads no words proves nothing"
        for method, _, place, body in writes["apple"]:
            answer = client.request(method, f"/tenants/shop-a{place}", json=body)
            assert answer.status_code < 300, answer.text
            assert _answers(client, "shop-b") == birch, f"{method} {place} reached another tenant"
        gone = client.get("/tenants/shop-a/v1/users/max")
        assert gone.status_code == 404
        assert "shop-a" not in client.get("/metrics").text, "no label for each tenant"


def test_a_walk_finds_a_leak(
    index_settings: Settings, shops: tuple[Shop, Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = module.Tenants.of

    async def leaking(self: module.Tenants, name: str | None) -> Service:
        return await right(self, "shop-b" if name == "shop-a" else name)

    monkeypatch.setattr(module.Tenants, "of", leaking)
    with served(index_settings) as (client, _):
        assert "birch" in str(_answers(client, "shop-a"))


def test_keys_and_names(index_settings: Settings, shops: tuple[Shop, Shop]) -> None:
    of_a = {"Authorization": f"Bearer {OF_A}"}
    admin_of_a = {"Authorization": f"Bearer {ADMIN_OF_A}"}
    body = {"users": [_user("eve")]}
    with served(index_settings) as (client, _):
        # a bound key needs no path
        bare = client.post("/v1/rerank", json=body, headers=of_a).json()["rankings"]
        assert bare == client.post("/tenants/shop-a/v1/rerank", json=body).json()["rankings"]
        # and reaches nobody else: the answer does not tell whether there is one
        refused = {
            client.post(f"/tenants/{name}/v1/rerank", json=body, headers=key).json()["error"][
                "code"
            ]
            for name in ["shop-b", *UNKNOWN]
            for key in (of_a, admin_of_a)
        }
        assert refused == {"unknown_tenant"}
        for name in UNKNOWN:
            answer = client.get(f"/tenants/{name}/v1/users/eve")
            assert (answer.status_code, len(answer.text) < 200) == (404, True), name
        assert client.get("/v1/users/eve", headers=of_a).status_code == 403
        assert client.get("/v1/users/eve", headers=admin_of_a).status_code == 200
        assert client.get("/metrics", headers=admin_of_a).status_code == 403
        assert client.get("/metrics", headers=AS_READER).status_code == 200
        unnamed = client.post("/v1/rerank", json=body)
        assert unnamed.status_code == 422
        assert "/tenants/shop-a/v1/rerank" in unnamed.json()["error"]["message"]
        assert client.get("/readyz").status_code == 200
        nobody = client.post("/tenants/shop-a/v1/rerank", json=body, headers={"Authorization": "x"})
        assert nobody.status_code == 401
    with served(index_settings, default="shop-b") as (client, app):
        assert "birch" in client.get("/v1/items/ships/personas").text
        assert "birch" in client.get("/tenants/shop-b/v1/items/ships/personas").text
        assert "apple" in client.get("/tenants/shop-a/v1/items/ships/personas").text
        assert len(app.state.service.tenants.services) == 1, "the default one is opened once"


def test_a_publish_is_followed_for_its_tenant_alone(
    index_settings: Settings, shops: tuple[Shop, Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_UP_S", 0.05)
    with served(index_settings) as (client, app):
        before = _answers(client, "shop-b")
        assert client.get("/tenants/shop-a/v1/items/ships/personas").status_code == 200
        own, other = [one.backend for one in app.state.service.tenants.services]
        if own.settings.index.tenant != "shop-a":
            own, other = other, own
        kept = other._current.now
        with open_versions(tenant(index_settings, "shop-a")) as versions:
            name = versions.of("another")
            with own.in_use() as live:
                made = live.index.metadata
            with versions.open(name, made) as fresh:
                fresh.load([Shop(index_settings, "cherry").item("ships")])
            versions.switch({versions.alias: name})
        own.refresh()
        assert "cherry" in client.get("/tenants/shop-a/v1/items/ships/personas").text
        assert _answers(client, "shop-b") == before
        assert other._current.now is kept
        if index_settings.qdrant.url is not None:
            drop_tenant(tenant(index_settings, "shop-a"))
            wait_until(lambda: len(app.state.service.tenants.services) == 1)
            assert client.get("/tenants/shop-a/v1/items/ships/personas").status_code == 404


def test_the_encoder_of_most_tenants_is_loaded_before_requests(
    index_settings: Settings, shops: tuple[Shop, Shop]
) -> None:
    loaded: list[IndexMetadata] = []

    def load(made_with: IndexMetadata) -> Encoder:
        loaded.append(made_with)
        return ENCODER

    index = index_settings.index.model_copy(update={"tenants": True})
    with closing(Backend(index_settings.model_copy(update={"index": index}), load)) as of_all:
        assert of_all.open()
        states = [of_all.encoder_state]
        for _ in range(2):
            of_all.keep_up()
            states.append(of_all.encoder_state)
        assert states == [EncoderState.LOADING, EncoderState.READY, EncoderState.READY]
        assert [one.fingerprint for one in loaded] == [ENCODER.fingerprint]
        with closing(of_all.of_tenant("shop-a")) as own:
            assert own.open()
            own.load_encoder()
        assert len(loaded) == 1


def test_only_so_many_tenants_are_open(
    index_settings: Settings, shops: tuple[Shop, Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(index_settings, max_tenants=1) as (client, app):
        assert client.get("/tenants/shop-a/v1/users/eve").status_code == 200
        full = client.get("/tenants/shop-b/v1/users/eve")
        assert (full.status_code, "P4R_SERVICE__MAX_TENANTS" in full.text) == (503, True)
        monkeypatch.setattr(module, "IDLE_S", 0.0)
        assert client.get("/tenants/shop-b/v1/users/eve").status_code == 200
        [left] = app.state.service.tenants.services
        assert left.backend.settings.index.tenant == "shop-b"


def test_what_does_not_fit_tenants_is_refused(index_settings: Settings) -> None:
    with pytest.raises(InputError, match="P4R_INDEX__TENANTS is not set"):
        check_tenants(with_service(index_settings, **BOUND))
    index = index_settings.index.model_copy(update={"tenants": True})
    own = index_settings.model_copy(update={"index": index})
    with pytest.raises(InputError, match="the studio is for one tenant"):
        check_tenants(with_service(own, studio=True))
    with pytest.raises(InputError, match="--artifacts is for one tenant"):
        check_tenants(with_service(own), has_background=True)
    with pytest.raises(ValidationError, match="bound to two tenants"):
        ServiceSettings(tenant_keys=f"shop-a={OF_A},shop-b={OF_A}")
    with pytest.raises(ValidationError, match="look like shop-a=KEY"):
        ServiceSettings(tenant_keys="shop-a=short")
    with open_tenants(own) as tenants:
        assert tenants.all() == []
