"""The service without a network: answers, keys, limits, and what fails open."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from starlette.testclient import TestClient

from p4r_qdrant import Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import (
    EncoderError,
    IndexRefusedError,
    IndexUnavailableError,
    RateLimitedError,
    SettingsError,
    TextsRefusedError,
)
from p4r_qdrant.moderation import Rules
from p4r_qdrant.service import logs
from p4r_qdrant.service.batching import Batcher
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.security import check_exposure
from p4r_qdrant.settings import ServiceSettings
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.polling import wait_until
from tests.support.serving import (
    ADMIN,
    AS_ADMIN,
    AS_READER,
    CATALOGUE,
    DIMENSION,
    READER,
    history,
    ids,
    make_app,
    make_index,
    with_service,
)

ALL = list(CATALOGUE)


class SlowEncoder(HashEncoder):
    """Waits until it is let go; counts the texts of each batch."""

    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.error: Exception | None = None

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.batches.append(len(batch))
        return super().encode_texts(batch)


@pytest.fixture
def encoder() -> SlowEncoder:
    return SlowEncoder()


Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index; who changes it changes it back."""
    folder = tmp_path_factory.mktemp("made") / "index"
    make_index(embedded(folder))
    return folder


@pytest.fixture
def serve(made: Path, encoder: SlowEncoder) -> Iterator[Serve]:
    """Starts the service with settings of its own; the client sends the admin key."""
    clients = []
    base = embedded(made)

    def start(**own: Any) -> TestClient:
        app = make_app(with_service(base, **own), encoder)
        client = TestClient(app, headers=AS_ADMIN, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    encoder.gate.set()
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve()


def rerank(client: TestClient, *users: dict[str, Any], **options: Any) -> Any:
    response = client.post("/v1/rerank", json={"users": list(users), **options})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(response: Any, status: int, code: str) -> str:
    """The sentence of a refusal that is as it should be."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["error"]["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    sentence: str = body["error"]["message"]
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


# --- reranking ---------------------------------------------------------------------------------


def test_a_history_ranks_what_it_speaks_of_and_says_why(client: TestClient) -> None:
    user = {"history": history("cakes", "old roses, roses in a garden"), "candidates": ALL}
    answer = rerank(client, user)
    [ranking] = answer["rankings"]
    assert ids(ranking)[0] == "roses"
    assert sorted(ids(ranking)) == sorted(ALL)
    assert (ranking["personalized"], ranking["degraded"], answer["degraded"]) == (
        True,
        False,
        False,
    )
    first = ranking["items"][0]
    assert first["persona"]["persona_id"].startswith("roses_P")
    assert first["item_title"] == "Roses"
    assert first["because"][0]["item_id"] == "i1"
    assert sum(one["share"] for one in first["because"]) == pytest.approx(1.0, abs=1e-5)


def test_it_says_what_the_library_says(client: TestClient, encoder: SlowEncoder) -> None:
    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        reranker = live.reranker
    vector = encoder.encode_texts(["night trains"])[0]
    expected = reranker.rerank(vector, [("cakes", 0.5), "trains", "nowhere"])
    user = {
        "vector": vector.tolist(),
        "candidates": [{"item_id": "cakes", "score": 0.5}, "trains", "nowhere"],
    }
    [ranking] = rerank(client, user)["rankings"]
    assert [
        (one["item_id"], one["score"], one["generator_score"], one["generator_rank"])
        for one in ranking["items"]
    ] == [
        (one.item_id, one.score, one.generator_score, one.generator_rank) for one in expected.items
    ]


def test_many_users_in_one_request_are_encoded_in_one_batch(
    client: TestClient, encoder: SlowEncoder
) -> None:
    users = [{"history": history(item_id), "candidates": ALL} for item_id in ALL]
    encoder.batches.clear()
    answer = rerank(client, *users, {"candidates": ALL})
    assert [ids(one)[0] for one in answer["rankings"][:-1]] == ALL
    assert not answer["rankings"][-1]["personalized"]
    assert ids(answer["rankings"][-1]) == ALL
    assert encoder.batches == [len(ALL)]


def test_histories_of_requests_at_once_are_encoded_together(
    serve: Serve, encoder: SlowEncoder
) -> None:
    client = serve()
    encoder.gate.clear()
    answers: dict[str, Any] = {}

    def ask(item_id: str) -> None:
        answers[item_id] = rerank(client, {"history": history(item_id), "candidates": ALL})

    first = threading.Thread(target=ask, args=(ALL[0],))
    first.start()
    wait_until(lambda: waiting_texts(client) == 1)
    others = [threading.Thread(target=ask, args=(item_id,)) for item_id in ALL[1:]]
    for thread in others:
        thread.start()
    wait_until(lambda: waiting_texts(client) == len(ALL))
    encoder.gate.set()
    for thread in [first, *others]:
        thread.join()
    assert sum(encoder.batches) == len(ALL)
    assert len(encoder.batches) == 2
    assert {one: ids(answers[one]["rankings"][0])[0] for one in ALL} == {one: one for one in ALL}


def test_a_batch_is_of_one_encoder() -> None:
    async def encoded() -> list[Floats]:
        batcher = Batcher(Metrics(), window_s=0.01, max_waiting_texts=100)
        batcher.start()
        lives = [SimpleNamespace(encoder=HashEncoder(wide)) for wide in (24, 32, 24)]
        try:
            return await asyncio.gather(
                *(batcher.encode(live, ["a", "b"], of_users=True) for live in lives)
            )
        finally:
            await batcher.close()

    assert [rows.shape for rows in asyncio.run(encoded())] == [(2, 24), (2, 32), (2, 24)]


def test_a_text_that_is_refused_fails_its_own_request_only() -> None:
    async def encoded() -> tuple[Any, Any]:
        batcher = Batcher(Metrics(), window_s=0.01, max_waiting_texts=100)
        batcher.start()
        live = SimpleNamespace(encoder=HashEncoder(cannot="bad"))
        try:
            return await asyncio.gather(
                batcher.encode(live, ["a", "a bad one"], of_users=True),
                batcher.encode(live, ["a", "b"], of_users=True),
                return_exceptions=True,
            )
        finally:
            await batcher.close()

    refused, fine = asyncio.run(encoded())
    assert isinstance(refused, TextsRefusedError)
    assert list(refused.reasons) == [1]
    np.testing.assert_array_equal(fine, HashEncoder().encode_texts(["a", "b"]))


def test_histories_and_personas_of_one_batch_get_their_own_prompts() -> None:
    async def encoded() -> tuple[Floats, Floats]:
        batcher = Batcher(Metrics(), window_s=0.01, max_waiting_texts=100)
        batcher.start()
        encoder = HashEncoder()
        encoder.query_prompt, encoder.document_prompt = "query ", "passage "
        live = SimpleNamespace(encoder=encoder)
        try:
            return await asyncio.gather(
                batcher.encode(live, ["salt"], of_users=True),
                batcher.encode(live, ["salt"], of_users=False),
            )
        finally:
            await batcher.close()

    expected = HashEncoder().encode_texts(["query salt", "passage salt"])
    np.testing.assert_array_equal(np.concatenate(asyncio.run(encoded())), expected)


def test_a_history_that_was_encoded_before_is_not_encoded_again(
    serve: Serve, encoder: SlowEncoder
) -> None:
    client = serve()
    body: Any = {"users": [{"history": history("ships", "roses"), "candidates": ALL}]}
    first = client.post("/v1/rerank", json=body).json()["rankings"]
    body["users"][0]["history"] += [{"item_id": "new", "timestamp": 9, "summary": "cakes"}]
    client.post("/v1/rerank", json=body)
    assert encoder.encoded == ["roses", "ships", "cakes"]
    body["users"][0]["history"].pop()
    assert client.post("/v1/rerank", json=body).json()["rankings"] == first
    assert encoder.encoded == ["roses", "ships", "cakes"]
    metrics = client.get("/metrics", headers=AS_READER).text
    assert 'p4r_encode_cache_total{result="hit"} 4.0' in metrics
    # The first request found the encoder unused: its texts were encoded without a look.
    assert 'p4r_encode_cache_total{result="miss"} 1.0' in metrics


def test_an_erasure_empties_the_cache(serve: Serve, encoder: SlowEncoder) -> None:
    client = serve()
    body = {"users": [{"history": history("ships"), "candidates": ALL}]}
    client.post("/v1/users/u/interactions", json={"item_id": "roses", "timestamp": 1})
    client.post("/v1/rerank", json=body)
    assert encoder.encoded == ["All about roses.", "ships"]
    assert client.delete("/v1/users/u").json()["erased"] == 1
    client.post("/v1/rerank", json=body)
    assert encoder.encoded == ["All about roses.", "ships", "ships"]
    finish_jobs(client)


def finish_jobs(client: TestClient) -> None:
    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        for job in live.users.jobs.due(100):
            live.users.jobs.finish(job)


def waiting_texts(client: TestClient) -> float:
    app: Any = client.app
    value: float = app.state.service.metrics.registry.get_sample_value("p4r_encode_waiting_texts")
    return value


def test_options(client: TestClient) -> None:
    user = {"history": history("ships", "roses roses"), "candidates": ALL}
    [ranking] = rerank(client, user, top=2, explain=1)["rankings"]
    assert len(ranking["items"]) == 2
    assert ranking["items"][0]["persona"] is not None
    assert "persona" not in ranking["items"][1]
    [ranking] = rerank(client, user, filter={"shelf": ["s", "c"]})["rankings"]
    assert ids(ranking) == ["ships", "cakes"]
    everything = rerank(client, user)["rankings"][0]["items"]
    least = everything[1]["score"]
    [ranking] = rerank(client, user, min_score=least)["rankings"]
    assert ids(ranking) == [one["item_id"] for one in everything[:2]]
    [ranking] = rerank(client, {"candidates": ALL}, min_score=0.9)["rankings"]
    assert ids(ranking) == ALL, "a threshold says nothing of somebody unknown"


def test_fusion_of_one_request(client: TestClient) -> None:
    scored = [{"item_id": one, "score": 4.0 - place} for place, one in enumerate(ALL)]
    user = {"history": history("night trains"), "candidates": scored}
    assert ids(rerank(client, user)["rankings"][0])[0] == "trains"
    generator = {"method": "weighted", "weight": 0.0}
    assert ids(rerank(client, user, fusion=generator)["rankings"][0]) == ALL
    response = client.post(
        "/v1/rerank",
        json={"users": [{**user, "candidates": ALL}], "fusion": generator},
    )
    assert "needs a score" in refusal(response, 422, "invalid")


# --- failing open ------------------------------------------------------------------------------

CANDIDATES = [{"item_id": "roses", "score": 0.9}, "ships", "roses", "nowhere"]


def degraded(answer: Any, reason: str) -> None:
    assert answer["degraded"]
    [ranking] = answer["rankings"]
    assert (ranking["degraded"], ranking["reason"], ranking["personalized"]) == (
        True,
        reason,
        False,
    )
    assert ids(ranking) == ["roses", "ships", "nowhere"]
    assert ranking["items"][0]["generator_score"] == 0.9


def test_an_encoder_that_is_too_slow(serve: Serve, encoder: SlowEncoder) -> None:
    client = serve(deadline_ms=50)
    encoder.gate.clear()
    degraded(rerank(client, {"history": history("x"), "candidates": CANDIDATES}), "deadline")
    encoder.gate.set()
    user = {"history": history("ships"), "candidates": CANDIDATES}
    wait_until(lambda: not rerank(client, user)["degraded"])


@pytest.mark.parametrize("error", [EncoderError("no memory"), RuntimeError("CUDA out of memory")])
def test_an_encoder_that_fails(client: TestClient, encoder: SlowEncoder, error: Exception) -> None:
    encoder.error = error
    user = {"history": history("x"), "candidates": CANDIDATES}
    degraded(rerank(client, user), "encoder_unavailable")
    vector = {"vector": [1.0] * DIMENSION, "candidates": CANDIDATES}
    with_both = rerank(client, user, vector)
    assert [one["degraded"] for one in with_both["rankings"]] == [True, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexUnavailableError("gone"), "index_unavailable"),
        (IndexRefusedError("no"), "index_refused"),
        (RateLimitedError("later", 7), "overloaded"),
        (KeyError("?"), "internal_error"),
    ],
)
def test_an_index_that_fails(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        monkeypatch.setattr(live.index, "best_personas", fail)
    degraded(rerank(client, {"vector": [1.0] * DIMENSION, "candidates": CANDIDATES}), reason)
    told = client.get("/metrics").text
    assert f'p4r_rerank_degraded_total{{reason="{reason}"}} 1.0' in told


def test_an_index_that_is_too_slow_and_threads_that_are_all_taken(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(deadline_ms=500, threads=1, max_waiting=1)
    gate = threading.Event()
    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        index = live.index
    right = index.best_personas

    def slow(*arguments: Any, **more: Any) -> Any:
        gate.wait(10)
        return right(*arguments, **more)

    monkeypatch.setattr(index, "best_personas", slow)
    user = {"vector": [1.0] * DIMENSION, "candidates": CANDIDATES}
    try:
        degraded(rerank(client, user), "deadline")
        # That one is still under way; the next waits behind it, a third has no place.
        waiting = threading.Thread(target=rerank, args=(client, user))
        waiting.start()
        wait_until(lambda: under_way(client) == 2)
        degraded(rerank(client, user), "overloaded")
        waiting.join()
    finally:
        gate.set()
    wait_until(lambda: under_way(client) == 0)
    assert not rerank(client, user)["degraded"]


def under_way(client: TestClient) -> float:
    app: Any = client.app
    value: float = app.state.service.metrics.registry.get_sample_value("p4r_rerank_under_way")
    return value


def test_too_many_texts_for_the_encoder_are_429(serve: Serve, encoder: SlowEncoder) -> None:
    client = serve(max_waiting_texts=2, deadline_ms=10_000)
    encoder.gate.clear()
    user = {"history": history("a", "b"), "candidates": ALL}
    first = threading.Thread(target=rerank, args=(client, user))
    first.start()
    wait_until(lambda: waiting_texts(client) == 2)
    response = client.post("/v1/rerank", json={"users": [user]})
    assert "waiting for the encoder" in refusal(response, 429, "busy")
    assert int(response.headers["retry-after"]) >= 1
    encoder.gate.set()
    first.join()
    rerank(client, user)


# --- bad input ---------------------------------------------------------------------------------

GOOD = {"candidates": ["ships"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"users": []}, "users: List should have at least 1 item"),
        ({}, "users: Field required"),
        ({"users": [{"candidates": []}]}, "users.0.candidates"),
        ({"users": [{"candidates": [""]}]}, "an id must not be empty"),
        ({"users": [{"candidates": ["a\nb"]}]}, "control character"),
        ({"users": [{"candidates": ["\ud800"]}]}, "not valid Unicode"),
        ({"users": [{"candidates": ["a"] * 1001}]}, "1001 candidates, but a user may have 1000"),
        ({"users": [GOOD] * 65}, "65 users, but a request may have 64"),
        ({"users": [{**GOOD, "vector": [1.0]}]}, "users.0"),
        ({"users": [{**GOOD, "vector": [0.0] * DIMENSION}]}, "is zero"),
        ({"users": [{**GOOD, "vector": ["x"]}]}, "users.0.vector.0"),
        ({"users": [{**GOOD, "vector": [1.0], "user_id": "u"}]}, "send one of"),
        (
            {"users": [{**GOOD, "history": history(*"a" * 201)}]},
            "201 interactions, but a history may have 200",
        ),
        ({"users": [{**GOOD, "history": [{"item_id": "a", "timestamp": -1}]}]}, "timestamp"),
        ({"users": [{**GOOD, "history": [{"item_id": "a", "timestamp": 2**63}]}]}, "timestamp"),
        ({"users": [GOOD], "top": 0}, "top"),
        ({"users": [GOOD], "explain": -1}, "explain"),
        ({"users": [GOOD], "filter": {"a b": 1}}, "filter on 'a b'"),
        ({"users": [GOOD], "filter": {"a": {"about": 1}}}, "filter on 'a'"),
        ({"users": [GOOD], "fusion": {"method": "magic"}}, "fusion.method"),
        ({"users": [GOOD], "colour": "red"}, "colour"),
        ([], "send a JSON object"),
        (None, "send a JSON object"),
    ],
)
def test_what_has_to_be_put_right(client: TestClient, body: Any, said: str) -> None:
    response = client.post(
        "/v1/rerank", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert said in refusal(response, 422, "invalid")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(client: TestClient, number: str) -> None:
    vector = ",".join([number] * DIMENSION)
    bodies = [
        f'{{"users": [{{"vector": [{vector}], "candidates": ["ships"]}}]}}',
        f'{{"users": [{{"candidates": [{{"item_id": "ships", "score": {number}}}]}}]}}',
        f'{{"users": [{{"candidates": ["ships"]}}], "min_score": {number}}}',
    ]
    for body in bodies:
        response = client.post(
            "/v1/rerank", content=body, headers={"Content-Type": "application/json"}
        )
        assert "finite number" in refusal(response, 422, "invalid")


@pytest.mark.parametrize("body", ["{", "", "\xff\xfe", "[" * 100_000, "nul"])
def test_what_is_no_json(client: TestClient, body: str) -> None:
    response = client.post(
        "/v1/rerank",
        content=body.encode("latin-1"),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code in (400, 422)
    refusal(response, response.status_code, "no_json" if response.status_code == 400 else "invalid")


def test_what_is_not_called_json(client: TestClient) -> None:
    response = client.post("/v1/rerank", content=json.dumps({"users": [GOOD]}))
    assert "Content-Type: application/json" in refusal(response, 422, "invalid")


def test_a_hundred_thousand_candidates_and_one(client: TestClient) -> None:
    candidates = [f"item-{number}" for number in range(100_001)]
    response = client.post("/v1/rerank", json={"users": [{"candidates": candidates}]})
    assert "100001 candidates, but a user may have 1000" in refusal(response, 422, "invalid")


def test_a_body_of_fifty_megabytes(client: TestClient) -> None:
    response = client.post("/v1/rerank", content=b"x" * (50 << 20))
    assert "4194304 bytes" in refusal(response, 413, "too_large")

    def parts() -> Iterator[bytes]:
        yield from [b"[" + b"1," * (1 << 19)] * 5

    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/rerank", content=parts(), headers=headers)
    assert "4194304 bytes" in refusal(response, 413, "too_large")


# --- items -------------------------------------------------------------------------------------

READY = {
    "personas": [
        {
            "persona_id": "P1",
            "name": "Kettle Keeper",
            "description": "boils water for tea",
            "preference_rationale": "it boils fast",
        }
    ],
    "summary": "An electric kettle.",
    "title": "Kettle",
    "categories": ["Kitchen", "Kettles & Pots"],
    "domain": "products",
    "fields": {"price": 29.0},
}


def test_an_item_is_put_found_and_taken_out(client: TestClient) -> None:
    path = "/v1/items/kettle%2F1%20%E2%98%95"
    assert client.get(f"{path}/personas").status_code == 404
    put = client.put(path, json=READY)
    assert put.json() == {
        "item_id": "kettle/1 ☕",
        "personas": 1,
        "written": True,
        "reasoning": "none",
    }
    found = client.get(f"{path}/personas").json()
    assert [one["name"] for one in found["personas"]] == ["Kettle Keeper"]
    assert found["fields"]["item_title"] == "Kettle"
    assert found["fields"]["category"] == "kettles-pots"
    assert found["fields"]["price"] == 29.0
    user = {"history": history("tea boils"), "candidates": ["cakes", "kettle/1 ☕"]}
    assert ids(rerank(client, user)["rankings"][0])[0] == "kettle/1 ☕"
    assert client.delete(path).json() == {"deleted": "kettle/1 ☕"}
    assert "not in the index" in refusal(client.delete(path), 404, "unknown_item")


def test_an_item_with_vectors_needs_no_encoder(client: TestClient, encoder: SlowEncoder) -> None:
    encoder.error = RuntimeError("gone")
    vectors = [[1.0] + [0.0] * (DIMENSION - 1)]
    response = client.put("/v1/items/kettle", json={**READY, "vectors": vectors})
    assert response.status_code == 200, response.text
    narrow = client.put("/v1/items/kettle", json={**READY, "vectors": [[1.0]]})
    assert "(1, 1)" in refusal(narrow, 422, "invalid")
    two = client.put("/v1/items/kettle", json={**READY, "vectors": vectors * 2})
    assert "1 personas but 2 vectors" in refusal(two, 422, "invalid")
    assert client.delete("/v1/items/kettle").status_code == 200


def test_rules_and_the_policy_of_the_publish_hold_for_what_is_put(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service, "rules", Rules(("kettle keeper",)))
    banned = client.put("/v1/items/kettle", json=READY)
    assert "holds the banned words" in refusal(banned, 422, "against_the_rules")
    monkeypatch.setattr(service, "rules", Rules())
    assert client.put("/v1/items/kettle", json=READY).status_code == 200
    with service.backend.in_use() as live:
        live.writer.record(policy="approved-only")
    try:
        again = client.put("/v1/items/kettle", json={**READY, "fields": {"price": 5.0}})
        assert again.status_code == 200, "the texts are those that are served"
        other = [{**READY["personas"][0], "name": "Another"}]  # type: ignore[index]
        refused = client.put("/v1/items/kettle", json={**READY, "personas": other})
        assert "approved personas only" in refusal(refused, 409, "not_approved")
        assert "fields" in client.get("/v1/items/kettle/personas").json()
    finally:
        with service.backend.in_use() as live:
            live.writer.record(policy="")
        client.delete("/v1/items/kettle")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"personas": []}, "personas"),
        ({"personas": READY["personas"] * 2}, "twice"),  # type: ignore[operator]
        ({"fields": {"slot": 3}}, "'slot'"),
        ({"fields": {"title": "x"}}, "fields: the name 'title'"),
        ({"fields": {"deep": json.loads("[" * 40 + "]" * 40)}}, "nested deeper"),
        ({"fields": {"large": 2**64}}, "64 bits"),
    ],
)
def test_items_that_cannot_be_indexed(client: TestClient, change: Any, said: str) -> None:
    response = client.put("/v1/items/kettle", json={**READY, **change})
    assert said in refusal(response, 422, "invalid")
    assert client.get("/v1/items/kettle/personas").status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        '{"price": NaN}',
        '{"price": [1, {"a": -Infinity}]}',
        '{"price": 18446744073709551616}',
        '{"price": ["\\ud800"]}',
        '{"price": {"\\udfff": 1}}',
        '{"price": ' + "[" * 30 + "]" * 30 + "}",
        '{"price": ' + '{"a":' * 30 + "1" + "}" * 30 + "}",
        '{"stock": "many"}',
        '{"slot": 1}',
    ],
)
def test_an_item_without_personas_is_checked_like_one_with_them(
    client: TestClient, fields: str
) -> None:
    said = []
    for rest in ({"personas": READY["personas"]}, {}):
        body = json.dumps({"title": "Kettle", **rest})[:-1] + f', "fields": {fields}}}'
        headers = {"Content-Type": "application/json"}
        response = client.put("/v1/items/kettle", content=body, headers=headers)
        said.append(refusal(response, 422, "invalid"))
    assert said[0] == said[1]
    assert re.search("price|stock|slot", said[0]), "the place"
    assert client.get("/v1/jobs").json()["waiting"] == 0


@pytest.mark.parametrize("path", ["/v1/items/%FF/personas", "/v1/items/%0A/personas"])
def test_paths_that_are_no_ids(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 422


@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (IndexRefusedError("no"), 502, "refused", None),
        (RateLimitedError("later", 6.5), 503, "unavailable", "7"),
        (IndexUnavailableError("gone"), 503, "unavailable", "1"),
    ],
)
def test_writes_that_qdrant_does_not_take(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
    wait: str | None,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        monkeypatch.setattr(live.writer, "replace_item", fail)
    response = client.put("/v1/items/kettle", json=READY)
    refusal(response, status, code)
    assert response.headers.get("Retry-After") == wait


def test_values_that_do_not_fit_a_declared_field(client: TestClient) -> None:
    body = {**READY, "fields": {"stock": "many", "price": 3}}
    said = refusal(client.put("/v1/items/kettle", json=body), 422, "invalid")
    assert "'stock' of item 'kettle' is declared as integer" in said


def test_a_field_that_is_not_declared_is_refused_and_not_degraded(client: TestClient) -> None:
    for wanted, said in (
        ({"colour": "red"}, "P4R_INDEX__FIELDS=colour=keyword"),
        ({"shelf": {"lt": 3}}, "declared as keyword"),
        ({"name": "x"}, "P4R_INDEX__FIELDS=name=keyword"),
    ):
        body = {"users": [GOOD], "filter": wanted}
        assert said in refusal(client.post("/v1/rerank", json=body), 422, "invalid")


# --- users -------------------------------------------------------------------------------------


def test_an_unknown_user_is_not_erased(client: TestClient) -> None:
    said = refusal(client.delete("/v1/users/nobody"), 404, "unknown_user")
    assert "p4r erase" in said
    assert client.get("/v1/jobs").json()["waiting"] == 0
    done = {"item_id": "ships", "timestamp": 1}
    assert client.post("/v1/users/somebody/interactions", json=done).status_code == 202
    assert client.delete("/v1/users/somebody").json()["erased"] == 1
    review = {"user_id": "reviewer", "rating": 5, "timestamp": 1, "text": "sails"}
    assert client.put("/v1/items/x", json={"reviews": [review]}).status_code == 202
    assert client.delete("/v1/users/reviewer").status_code == 200, "a review waits for the worker"
    finish_jobs(client)


def test_only_the_admin_key_is_told_what_a_stored_user_did(serve: Serve) -> None:
    client = serve(tell_because=False)
    done = {"item_id": "ships", "timestamp": 1}
    assert client.post("/v1/users/u1/interactions", json=done).status_code == 202
    users: list[dict[str, Any]] = [{"user_id": "u1"}, {"history": history("x")}]
    users = [{**user, "candidates": ALL} for user in users]

    def told(**headers: str) -> list[bool]:
        client.headers.update(headers)
        rankings = rerank(client, *users)["rankings"]
        [first, *_] = client.get("/v1/recommendations/u1").json()["items"]
        items = [*(one["items"][0] for one in rankings), first]
        assert all(one["persona"] for one in items)
        return [bool(one["because"]) for one in items]

    try:
        assert told() == [True, True, True]
        assert told(**AS_READER) == [False, True, False], "an own history is no secret"
    finally:
        client.headers.update(AS_ADMIN)
        client.delete("/v1/users/u1")


def test_why_not(serve: Serve) -> None:
    client = serve(tell_because=False, deadline_ms=30_000)
    for at, item_id in enumerate(("roses", "ships")):
        done = {"item_id": item_id, "timestamp": at}
        assert client.post("/v1/users/u2/interactions", json=done).status_code == 202

    def asked(user: dict[str, Any], item_id: str, **more: Any) -> Any:
        body = {"user": {**user, "candidates": ALL}, "item_id": item_id, "top": 1, **more}
        return client.post("/v1/why-not", json={**body, "fusion": {"method": "none"}})

    try:
        ranking = rerank(client, {"user_id": "u2", "candidates": ALL})["rankings"][0]["items"]
        order = [one["item_id"] for one in ranking]
        found = asked({"user_id": "u2"}, order[1]).json()
        assert (found["item"]["rank"], found["threshold"]["item_id"]) == (2, order[0])
        assert found["change"]["item_id"] == order[0]
        assert found["change"]["rank"] == 1
        assert found["differences"]["personas"] < 0
        first = asked({"user_id": "u2"}, order[0]).json()
        assert (first["threshold"], first["change"], first["tried"]) == (None, None, 0)
        inline = asked({"history": history("tall ships", "old roses")}, order[2]).json()
        assert inline["item"]["because"]
        assert asked({"vector": [1.0, *[0.0] * 31]}, "ships").status_code == 200
        assert asked({}, ALL[-1]).json()["advice"].startswith("Nothing is known of the user")
        assert asked({"user_id": "nobody"}, "ships").status_code == 404
        assert asked({"user_id": "u2"}, "elsewhere").status_code == 422
        assert asked({"user_id": "u2"}, "ships", top=0).status_code == 422
        client.headers.update(AS_READER)
        hidden = asked({"user_id": "u2"}, order[1]).json()
        assert hidden["change"] is None
        assert hidden["advice"] == "One change of the history lifts it."
        assert not hidden["item"]["because"]
    finally:
        client.headers.update(AS_ADMIN)
        client.delete("/v1/users/u2")


# --- pages for people --------------------------------------------------------------------------


def test_the_pages_need_no_other_server(client: TestClient) -> None:
    start = client.get("/").json()
    assert start["service"] == "p4r"
    for name in ("documentation", "openapi", "health"):
        assert client.get(f"/{start[name]}").status_code == 200
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)|url: ["']([^"']+)""", page)
    found = [address for pair in addresses for address in pair if address]
    assert len(found) >= 4
    for address in found:
        assert "//" not in address
        assert client.get(f"/{address}").status_code == 200
    assert client.get("/redoc").status_code == 404


def test_a_slash_at_the_end_redirects_nowhere(client: TestClient) -> None:
    for path in ("/v1/rerank", "/v1/rerank/"):
        response = client.post(path, json={"users": [GOOD]}, follow_redirects=False)
        assert response.status_code == 200, response.text
    nothing = ("/v1/nothing/", "/docs/", "/healthz/", "/docs/assets", "//evil.example/", "/..//x")
    for path in nothing:
        assert not client.get(path, follow_redirects=False).is_redirect


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic eDp5", "Bearer", "Bearer \xe9"])
def test_without_a_key_nothing_is_told(serve: Serve, header: str | None) -> None:
    client = serve()
    del client.headers["Authorization"]
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    for method, path in [
        ("POST", "/v1/rerank"),
        ("GET", "/v1/items/ships/personas"),
        ("PUT", "/v1/items/ships"),
        ("DELETE", "/v1/items/ships"),
        ("GET", "/metrics"),
    ]:
        body = READY if method == "PUT" else {"users": [GOOD]}
        response = client.request(method, path, json=body, headers=headers)
        refusal(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {
        "ready": True,
        "index": "open",
        "writes": "ok",
        "encoder": "ready",
    }


def test_the_reading_key_reads(client: TestClient) -> None:
    client.headers.update(AS_READER)
    rerank(client, GOOD)
    assert client.get("/v1/items/ships/personas").status_code == 200
    assert "admin key" in refusal(client.put("/v1/items/x", json=READY), 403, "forbidden")
    assert client.delete("/v1/items/ships").status_code == 403


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "set P4R_SERVICE__ADMIN_KEY"),
        ({"allow_anonymous": True, "host": "0.0.0.0"}, "not on 0.0.0.0"),
        ({"allow_anonymous": True, "host": "example.org"}, "not on example.org"),
        ({"allow_anonymous": True, "api_key": "k"}, "unset one of them"),
    ],
)
def test_a_service_that_would_be_open_is_refused(own: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_exposure(ServiceSettings(**own))


@pytest.mark.parametrize(
    "own",
    [
        {"admin_key": "k", "host": "0.0.0.0"},
        {"api_key": "k", "host": "::"},
        {"allow_anonymous": True},
        {"allow_anonymous": True, "host": "::1"},
        {"allow_anonymous": True, "host": "localhost"},
    ],
)
def test_a_service_that_is_not_open_may_begin(own: Any) -> None:
    check_exposure(ServiceSettings(**own))


def test_anonymous_callers_name_this_machine(serve: Serve) -> None:
    client = serve(allow_anonymous=True)
    for host, status in [("localhost:8000", 200), ("127.0.0.1", 200), ("evil.example", 400)]:
        assert client.get("/healthz", headers={"Host": host}).status_code == status


# --- logs and metrics --------------------------------------------------------------------------


def test_logs_have_request_ids_and_no_texts(
    client: TestClient, encoder: SlowEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    secret = "my secret illness"
    user = {"history": history(secret), "candidates": ["secret-item"]}
    client.post("/v1/rerank", json={"users": [user]}, headers={"X-Request-Id": "abc-1"})
    served: Any = client.app
    served.state.service.backend.cache.clear()  # so that the text is encoded again
    for error in (
        EncoderError(f"it answers 422: {secret}").quoting(secret),
        TextsRefusedError([secret], {0: f"no {secret}"}, np.full((1, DIMENSION), np.nan)),
    ):
        encoder.error = error
        client.post("/v1/rerank", json={"users": [user]}, headers={"X-Request-Id": "abc-2"})
        client.put("/v1/items/x", json={**READY, "summary": secret})
    encoder.error = RuntimeError(secret)
    client.post("/v1/rerank", json={"users": [user]}, headers={"X-Request-Id": "not an id\t"})
    client.get(f"/v1/items/{secret}/personas")
    client.put("/v1/items/x", json={"personas": secret})
    own = [record for record in caplog.records if record.name.startswith("p4r_qdrant")]
    lines = [json.loads(logs.JsonLines().format(record)) for record in own]
    told = [
        line
        for line in lines
        if line["message"] == "request" and line["request_id"] != "abc-2" and line["status"] == 200
    ]
    assert told[0]["request_id"] == "abc-1"
    assert (told[0]["route"], told[0]["status"], told[0]["candidates"]) == ("/v1/rerank", 200, 1)
    assert told[1]["degraded"] == ["encoder_unavailable"]
    assert len(told[1]["request_id"]) == 16
    assert any(line.get("error") == "RuntimeError" and line["trace"] for line in lines)
    for word in ("illness", "secret", READER, ADMIN):
        assert word not in json.dumps(lines)


def test_metrics_measure_the_stages(client: TestClient) -> None:
    rerank(client, {"history": history("ships"), "candidates": ALL})
    told = client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    for stage in ("encode", "query", "total"):
        assert f'p4r_rerank_seconds_count{{stage="{stage}"}} 1.0' in told.text
    assert 'route="/v1/rerank",status="200"' in told.text


def test_a_crash_is_one_line_and_an_error_body(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app

    def crash(_: str) -> None:
        raise ZeroDivisionError

    with app.state.service.backend.in_use() as live:
        monkeypatch.setattr(live.writer, "get", crash)
    refusal(client.get("/v1/items/ships/personas"), 500, "internal_error")


def test_the_document_names_the_schemas(client: TestClient) -> None:
    app: Any = client.app
    assert isinstance(app, FastAPI)
    document = client.get("/openapi.json").json()
    rerank_route = document["paths"]["/v1/rerank"]["post"]
    assert rerank_route["security"]
    assert {"200", "400", "401", "413", "422", "429"} <= set(rerank_route["responses"])


def test_settings_of_the_reading_path(tmp_path: Path) -> None:
    from p4r_qdrant.service.live import reading

    settings = Settings.load(
        qdrant={"url": "https://q.example", "api_key": "writes", "timeout_s": 9},
        service={"qdrant_read_key": "reads", "deadline_ms": 250},
    )
    own = reading(settings).qdrant
    assert own.api_key is not None
    assert (own.api_key.get_secret_value(), own.timeout_s) == ("reads", 0.25)
    plain = Settings.load(qdrant={"url": "http://q.example"}, service={"qdrant_read_key": "reads"})
    with pytest.raises(SettingsError, match="unencrypted"):
        reading(plain)
