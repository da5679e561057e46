"""What a request may cost: the key before the body, sizes, depths, time."""

import asyncio
import json
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.testclient import TestClient

from p4r_qdrant.errors import InputError
from p4r_qdrant.schemas.items import ItemBody
from p4r_qdrant.schemas.reranking import RerankBody
from p4r_qdrant.service import batching, bodies, middleware
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.state import Service
from p4r_qdrant.settings import ServiceSettings, Settings
from p4r_qdrant.users.store import MAX_ITEMS
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.polling import wait_until
from tests.support.serving import AS_ADMIN, make_app, make_index, with_service

JSON = {"Content-Type": "application/json"}
LIMITS = ServiceSettings()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits") / "index"
    make_index(embedded(folder))
    return folder


@pytest.fixture(scope="module")
def client(made: Path) -> Iterator[TestClient]:
    with TestClient(make_app(with_service(embedded(made))), headers=AS_ADMIN) as client:
        yield client


def closed_app(**own: Any) -> FastAPI:
    """An application with settings of its own, and no index."""
    return create_app(Service(Backend(with_service(Settings(), **own))))


NEVER = b"never comes"


def ask(
    app: FastAPI, parts: Sequence[bytes], *, headers: dict[str, str], path: str = "/v1/rerank"
) -> list[str]:
    """What happens between server and app, in order: `take` of a part, `start`, `body`, `end`."""
    happened: list[str] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if waiting[0] is NEVER:
            await asyncio.Event().wait()
        happened.append("take")
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            happened.append(str(message["status"]))
        else:
            happened.append("more" if message.get("more_body") else "end")

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in (JSON | headers).items()
        ],
    }
    asyncio.run(app(scope, receive, send))
    return happened


# --- before the body ---------------------------------------------------------------------------


def test_the_key_is_looked_at_before_the_body(client: TestClient) -> None:
    app: Any = client.app
    headers = {"Transfer-Encoding": "chunked"}
    happened = ask(app, [b"[", b"]"], headers=headers)
    assert happened == ["401", "more", "take", "take", "end"]


def test_a_body_that_says_it_is_too_large_is_refused_unread(client: TestClient) -> None:
    app: Any = client.app
    size = str(LIMITS.max_body_bytes + 1)
    happened = ask(app, [b"[", b"]"], headers={**AS_ADMIN, "Content-Length": size})
    assert happened == ["413", "more", "take", "take", "end"], "the rest is dropped: no reset"
    asked = {**AS_ADMIN, "Content-Length": size, "Expect": "100-continue"}
    assert ask(app, [b"["], headers=asked) == ["413", "more", "end"], "it was never sent"


def test_a_body_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "LINGER_S", 0.01)
    app = closed_app(receive_timeout_s=0.05)
    headers = {**AS_ADMIN, "Content-Length": "100"}
    assert ask(app, [b"[" * 10, NEVER], headers=headers) == ["take", "408", "more", "end"]


# --- what a body is made of --------------------------------------------------------------------

MANY = 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        "[" + "[]," * MANY + "[]]",
        '{"users":[' + "{}," * MANY + "{}]}",
        '{"users":[{"candidates":[' + "[]," * MANY + "[]]}]}",
        '{"filter":{' + '"a":1,' * (MANY // 2) + '"b":1}}',
        '["' + '","'.join("x" * (MANY // 2)) + '"]',
    ],
    ids=["lists", "users", "candidates", "names", "texts"],
)
def test_a_body_of_too_many_values_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ProblemError, match=r"200000 values \(P4R_SERVICE__MAX_BODY") as raised:
        bodies.parsed(body.encode(), RerankBody, LIMITS)
    assert raised.value.status == 413


@pytest.mark.parametrize(
    "text", ['"' + '[{,\\"' * 1000 + '"', '"\\\\"', '["\\\\",[]]', "[{}, [[]]]"]
)
def test_what_stands_in_a_text_does_not_count(text: str) -> None:
    bodies.check_structure(text, 6)
    json.loads(text)


@pytest.mark.parametrize("opened", ["[", '{"a":', '[{"\\"":'])
def test_depth_is_limited_before_parsing(opened: str) -> None:
    with pytest.raises(InputError, match="deeper than 64"):
        bodies.check_structure(opened * 65, 1000)
    bodies.check_structure(opened * 32, 1000)


def problems_of(model: Any, value: Any) -> list[Any]:
    with pytest.raises(RequestValidationError) as raised:
        bodies.parsed(json.dumps(value).encode(), model, LIMITS)
    return list(raised.value.errors())


CANDIDATE = ["ships"]
BAD: list[Any] = [{}] * 50


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (RerankBody, {"users": BAD}),
        (RerankBody, {"users": [{"candidates": BAD}]}),
        (RerankBody, {"users": [{"candidates": [[]] * 1000}]}),
        (RerankBody, {"users": [{"candidates": CANDIDATE, "history": BAD}]}),
        (RerankBody, {"users": [{"candidates": CANDIDATE, "vector": ["x"] * 1000}]}),
        (RerankBody, {"users": [{"candidates": [[]] * 40_000}] * 2}),
        (ItemBody, {"personas": BAD}),
        (ItemBody, {"reviews": BAD}),
        (ItemBody, {"vectors": [["x"] * 100] * 100}),
        (ItemBody, {"categories": BAD}),
    ],
)
def test_only_the_first_errors_are_collected(model: Any, value: Any) -> None:
    assert len(problems_of(model, value)) <= 8


def test_an_object_of_too_many_names() -> None:
    names = {f"n{number}": 1 for number in range(bodies.MAX_NAMES + 1)}
    for value in (names, {"users": [{**names}] + [{}] * 9}, {"filter": names}):
        with pytest.raises(InputError, match="names"):
            bodies.parsed(json.dumps(value).encode(), RerankBody, LIMITS)


@pytest.mark.parametrize("raw", [b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"1" * 5000])
def test_what_cannot_be_read_is_400(raw: bytes) -> None:
    with pytest.raises(ProblemError, match="not valid JSON") as raised:
        bodies.parsed(raw, RerankBody, LIMITS)
    assert raised.value.status == 400


def test_a_large_body_is_parsed_on_another_thread(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    right = bodies.parsed

    def noted(*arguments: Any, **options: Any) -> Any:
        names.append(threading.current_thread().name)
        return right(*arguments, **options)

    monkeypatch.setattr(bodies, "parsed", noted)
    for count in (1, 900):
        candidates = [f"a-rather-long-item-id-{number}" for number in range(count)]
        response = client.post("/v1/rerank", json={"users": [{"candidates": candidates}]})
        assert response.status_code == 200, response.text
    small, large = names
    assert large.startswith("p4r-parse")
    assert small != large


def test_the_document_has_the_limits_of_the_settings() -> None:
    document = closed_app(max_users=7, max_candidates=9, max_history=11).openapi()
    user = document["components"]["schemas"]["UserBody"]["properties"]
    assert document["components"]["schemas"]["RerankBody"]["properties"]["users"]["maxItems"] == 7
    assert user["candidates"]["maxItems"] == 9
    assert user["history"]["anyOf"][0]["maxItems"] == 11
    assert "x-limit" not in json.dumps(document)
    body = document["paths"]["/v1/rerank"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/RerankBody"}


# --- recommendations ---------------------------------------------------------------------------


@pytest.fixture
def reader_of_ships(client: TestClient) -> Iterator[str]:
    """A stored user."""
    path = "/v1/users/sailor"
    done = {"item_id": "ships", "timestamp": 1}
    assert client.post(f"{path}/interactions", json=done).status_code == 202
    yield "/v1/recommendations/sailor"
    client.delete(path)


def test_recommendations_read_no_history_with_its_texts(
    client: TestClient, reader_of_ships: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app
    with app.state.service.backend.in_use() as live:
        monkeypatch.setattr(live.users.interactions, "of", None)
        asked = []
        right = live.users.interactions.items

        def seen(*given: Any) -> Any:
            asked.append(given)
            return right(*given)

        monkeypatch.setattr(live.users.interactions, "items", seen)
    items = client.get(reader_of_ships).json()["items"]
    assert "ships" not in [one["item_id"] for one in items]
    assert asked == [("sailor", MAX_ITEMS)]


def test_recommendations_have_a_deadline(
    client: TestClient, reader_of_ships: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app
    gate = threading.Event()
    own = ServiceSettings(deadline_ms=50)
    backend = app.state.service.backend
    changed = backend.settings.model_copy(update={"service": own})
    monkeypatch.setattr(backend, "settings", changed)
    with backend.in_use() as live:
        monkeypatch.setattr(live.users.interactions, "items", lambda *_: gate.wait(10))
    response = client.get(reader_of_ships)
    gate.set()
    assert response.status_code == 503
    assert "P4R_SERVICE__DEADLINE_MS" in response.json()["error"]["message"]
    assert response.headers["retry-after"]


def test_recommendations_wait_for_no_thread_without_end(
    client: TestClient, reader_of_ships: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app
    monkeypatch.setattr(app.state.service.ranker.threads, "_room", 0)
    response = client.get(reader_of_ships)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "busy")


# --- metrics -----------------------------------------------------------------------------------


def test_metrics_do_not_wait_for_the_store(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app

    def told(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        [line] = (one for one in lines if one.startswith(f"{name} "))
        return float(line.split()[-1])

    before = told('p4r_jobs{state="waiting"}')
    gate, counted = threading.Event(), []

    def hang() -> dict[str, int]:
        counted.append(gate.wait(10))
        return {"waiting": 7, "failed": 0}

    with app.state.service.backend.in_use() as live:
        monkeypatch.setattr(live.users.jobs, "counts", hang)
    ages = []
    for _ in range(2):
        assert told('p4r_jobs{state="waiting"}') == before
        ages.append(told("p4r_jobs_age_seconds"))
    assert 0 < ages[0] < ages[1] < math.inf
    assert not counted, "one count is under way, and no other begins"
    gate.set()
    wait_until(lambda: told('p4r_jobs{state="waiting"}') == 7)


# --- shares of the encoder ---------------------------------------------------------------------


class Counting(HashEncoder):
    """Keeps the texts of each batch, and waits before each one."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.gate = threading.Semaphore(0)

    def encode_texts(self, batch: Sequence[str]) -> Any:
        self.gate.acquire(timeout=10)
        self.batches.append(list(batch))
        return super().encode_texts(batch)


def long_texts(name: str, count: int) -> list[str]:
    return [f"{name}{number} ".ljust(2000, "x") for number in range(count)]


def test_a_request_of_many_texts_does_not_hold_up_others() -> None:
    encoder = Counting()
    live = SimpleNamespace(encoder=encoder)

    async def run() -> None:
        batcher = Batcher(Metrics(), window_s=0, max_waiting_texts=1000)
        batcher.start()
        many = asyncio.create_task(batcher.encode(live, long_texts("many", 100), of_users=True))
        await asyncio.sleep(0)
        one = asyncio.create_task(batcher.encode(live, ["one"], of_users=True))
        encoder.gate.release(2)
        np.testing.assert_array_equal(await one, HashEncoder().encode_texts(["one"]))
        assert not many.done()
        encoder.gate.release(50)
        expected = HashEncoder().encode_texts(long_texts("many", 100))
        np.testing.assert_array_equal(await many, expected)
        await batcher.close()

    asyncio.run(run())
    assert all(sum(map(len, batch)) <= batching.BATCH_CHARACTERS for batch in encoder.batches)
    assert any("one" in batch for batch in encoder.batches[:2])


def test_requests_take_turns() -> None:
    encoder = Counting()
    encoder.gate.release(100)
    live = SimpleNamespace(encoder=encoder)

    async def run() -> None:
        batcher = Batcher(Metrics(), window_s=0.01, max_waiting_texts=1000)
        batcher.start()
        some = [batcher.encode(live, long_texts(name, 20), of_users=True) for name in "abc"]
        await asyncio.gather(*some)
        await batcher.close()

    asyncio.run(run())
    for batch in encoder.batches[:5]:
        shares = Counter(text[0] for text in batch)
        assert max(shares.values()) - min(shares.values()) <= 1


def test_what_nobody_waits_for_is_not_encoded() -> None:
    encoder = Counting()
    live = SimpleNamespace(encoder=encoder)

    async def run() -> None:
        batcher = Batcher(Metrics(), window_s=0, max_waiting_texts=1000)
        batcher.start()
        many = asyncio.create_task(batcher.encode(live, long_texts("many", 100), of_users=True))
        await asyncio.sleep(0.05)
        many.cancel()
        await asyncio.gather(many, return_exceptions=True)
        encoder.gate.release(100)
        await batcher.encode(live, ["one"], of_users=True)
        await batcher.close()

    asyncio.run(run())
    assert [len(batch) for batch in encoder.batches] == [10, 1]
