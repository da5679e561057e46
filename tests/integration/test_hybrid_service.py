"""The one score behind the service on both engines: stored users, histories, recommendations."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from p4r_qdrant import Settings, open_index
from p4r_qdrant.rerank.scoring import Scoring, Weights
from tests.support.columns import column, part
from tests.support.serving import AS_ADMIN, AS_READER, CATALOGUE, make_app, make_index, with_service

NUMBERS = {item_id: number for number, item_id in enumerate(CATALOGUE)}
B = {"trains": {"ships": 0.75, "roses": 0.25}, "cakes": {"roses": 0.5}}
SCORED = [{"item_id": one, "score": 1.0 - place} for place, one in enumerate(CATALOGUE)]
SCORING = Scoring(candidates=Weights(personas=0, collaborative=1, generator=0.01))
OWN = {"method": "standard", "collaborative_weight": 1}


@pytest.fixture
def client(index_settings: Settings) -> Iterator[TestClient]:
    make_index(index_settings)
    columns = [
        column(one, number, {NUMBERS[own]: value for own, value in B.get(one, {}).items()})
        for one, number in NUMBERS.items()
    ]
    with open_index(index_settings) as index:
        index.write_collaborative(part(columns, decay=1.0), columns)
        index.record(scoring=SCORING.model_dump_json())
    app = make_app(with_service(index_settings, tell_because=False))
    with TestClient(app, headers=AS_ADMIN, raise_server_exceptions=False) as client:
        for at, item_id in enumerate(["roses", "ships"]):
            done = {"item_id": item_id, "timestamp": at}
            assert client.post("/v1/users/u1/interactions", json=done).status_code == 202
        yield client


def first(client: TestClient, user: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"users": [{**user, "candidates": SCORED}], **more}
    answer = client.post("/v1/rerank", json=body).json()
    assert not answer["degraded"]
    item: dict[str, Any] = answer["rankings"][0]["items"][0]
    return item


def test_a_stored_user_and_the_same_history(client: TestClient) -> None:
    told = [
        {
            "item_id": item_id,
            "timestamp": at,
            "summary": f"All about {item_id}.",
            "title": item_id.title(),
        }
        for at, item_id in enumerate(["roses", "ships"])
    ]
    for _ in range(2):  # encoded from the history, then by the stored vector
        stored = first(client, {"user_id": "u1"})
        assert stored["item_id"] == "trains"
        assert stored["collaborative_score"] == pytest.approx(1.0)
        assert [(one["item_id"], one["share"]) for one in stored["chosen_with"]] == [
            ("ships", 0.75),
            ("roses", 0.25),
        ]
        assert stored["parts"]["personas"] == 0.0
        assert sum(stored["parts"].values()) == pytest.approx(stored["score"])
        assert stored["why"] == "for the Reader of trains 0; users of Ships chose it too"
    given = first(client, {"history": told})
    assert (given["item_id"], given["parts"]) == (stored["item_id"], pytest.approx(stored["parts"]))
    assert given["why"] == stored["why"]


def test_two_stored_users_at_once(client: TestClient) -> None:
    user = {"user_id": "u1", "candidates": SCORED}
    answer = client.post("/v1/rerank", json={"users": [user, user]}).json()
    assert [one["items"][0]["item_id"] for one in answer["rankings"]] == ["trains", "trains"]


def test_a_request_sets_the_score(client: TestClient) -> None:
    personas = {"method": "standard", "persona_weight": 1, "collaborative_weight": 0}
    assert first(client, {"user_id": "u1"}, fusion=personas)["parts"]["collaborative"] is None
    item = first(client, {"user_id": "u1"}, fusion={"method": "none"})
    assert item["parts"] is None if "parts" in item else True
    generator = {"method": "standard", "collaborative_weight": 0, "generator_weight": 1}
    assert first(client, {"user_id": "u1"}, fusion=generator)["item_id"] == SCORED[0]["item_id"]


def test_recommendations_come_through_both_parts(client: TestClient) -> None:
    answer = client.get("/v1/recommendations/u1").json()
    found = [one["item_id"] for one in answer["items"]]
    assert found == ["trains", "cakes"], "without what the user has"
    assert answer["items"][0]["why"]
    everything = client.get("/v1/recommendations/u1?seen=true").json()["items"]
    assert {one["item_id"] for one in everything} == set(CATALOGUE)


def test_a_reader_is_not_told_what_a_stored_user_did(client: TestClient) -> None:
    client.headers.update(AS_READER)
    item = first(client, {"user_id": "u1"})
    recommended = client.get("/v1/recommendations/u1").json()["items"][0]
    for one in (item, recommended):
        assert (one["chosen_with"], one["because"]) == ([], [])
        assert one["why"] == "for the Reader of trains 0"


def test_a_weight_for_a_part_that_is_not_there(index_settings: Settings) -> None:
    make_index(index_settings)
    app = make_app(with_service(index_settings))
    with TestClient(app, headers=AS_ADMIN, raise_server_exceptions=False) as client:
        body = {"users": [{"history": [], "candidates": SCORED}], "fusion": OWN}
        refused = client.post("/v1/rerank", json=body)
        assert refused.status_code == 422
        assert "p4r publish" in refused.json()["error"]["message"]
        assert client.post("/v1/rerank", json={**body, "fusion": {"method": "standard"}}).is_success
