"""The background work: what the service enqueued is done once, whatever happens in between."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi")

from devtools.scripted_llm import Call, Reply, ScriptedLLM, says
from indexer.artifacts.folder import ArtifactFolder
from indexer.ledger import Ledger
from indexer.llm import BudgetReachedError
from indexer.prompts import Domain
from indexer.reasoning.step import Sources
from indexer.updates.worker import ATTEMPTS, Worker
from indexer.updates.worker_metrics import publish_metrics
from indexer.updates.worker_thread import WorkerThread
from p4r_qdrant import Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.state import Service
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.obliging_llm import obliging
from tests.support.polling import wait_until
from tests.support.serving import AS_ADMIN, DIMENSION, make_index, running, with_service

REVIEW = "I read about tall ships every winter evening by the stove, and my father did so too."


class Model:
    """The obliging model, which can be told to do nothing, or nonsense."""

    def __init__(self) -> None:
        self.away = False
        self.nonsense = False
        self.asked: list[str] = []

    def __call__(self, call: Call) -> Reply:
        if self.away:
            return Reply(status=503)
        self.asked.append(call.body["response_format"]["json_schema"]["name"])
        return says({"nothing": 1}) if self.nonsense else obliging(call)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def llm(model: Model) -> Iterator[ScriptedLLM]:
    with ScriptedLLM(model) as server:
        yield server


class Shop:
    """The service and its worker over one embedded index."""

    def __init__(self, folder: Path, llm: ScriptedLLM, max_tokens: int | None = None) -> None:
        base = embedded(folder / "index")
        make_index(base)
        self.settings: Settings = with_service(base).model_copy(
            update={
                "llm": base.llm.model_copy(
                    update={
                        "base_url": llm.url,
                        "attempts": 2,
                        "retry_for_s": 0.0,
                        "timeout_s": 5.0,
                        "max_tokens": max_tokens,
                    }
                )
            }
        )
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir(exist_ok=True)
        self.backend = Backend(self.settings, lambda _: HashEncoder(DIMENSION))
        self.backend.open()
        self.backend.load_encoder()
        self.ledger = Ledger(self.artifacts / "ledger")
        sources = Sources(ArtifactFolder(self.artifacts), Domain.load("books"), self.settings.llm)
        self.worker = Worker(self.backend, sources, self.ledger)

    def work(self) -> int:
        return asyncio.run(self.worker.work_once())

    def close(self) -> None:
        self.ledger.close()
        self.backend.close()


@pytest.fixture
def shop(tmp_path: Path, llm: ScriptedLLM) -> Iterator[Shop]:
    opened = Shop(tmp_path, llm)
    yield opened
    opened.close()


@pytest.fixture
def address(shop: Shop) -> Iterator[str]:
    with running(create_app(Service(shop.backend))) as address:
        yield address


def request(address: str, method: str, path: str, body: Any = None) -> Any:
    answer = httpx2.request(method, address + path, json=body, headers=AS_ADMIN, timeout=30)
    assert answer.status_code < 300, answer.text
    return answer.json()


def act(address: str, user_id: str = "ada", text: str = REVIEW, item_id: str = "ships") -> Any:
    body = {"item_id": item_id, "timestamp": 10, "rating": 5, "text": text}
    return request(address, "POST", f"/v1/users/{user_id}/interactions", body)


def user(address: str, user_id: str = "ada") -> Any:
    return request(address, "GET", f"/v1/users/{user_id}")["history"][0]


def vector(shop: Shop) -> Floats:
    with shop.backend.in_use() as live:
        return live.users.user_vectors(["ada"])["ada"].vector


def test_a_review_is_read_once_and_changes_the_user_vector(
    shop: Shop, address: str, model: Model
) -> None:
    assert act(address)["aspects"] == "queued"
    before = vector(shop)
    assert not user(address)["has_aspects"]
    assert shop.work() == 1
    assert user(address)["has_aspects"]
    after = vector(shop)
    assert float(before @ after) < 0.999
    assert shop.work() == 0
    assert act(address)["new"] is False
    assert shop.work() == 0
    assert model.asked == ["aspects"]
    assert shop.worker.usage.tokens > 0


def test_an_llm_that_is_away_touches_nothing_and_loses_nothing(
    shop: Shop, address: str, model: Model
) -> None:
    model.away = True
    background = WorkerThread(shop.worker)
    background.start()
    try:
        act(address)
        wait_until(lambda: shop.worker.problem != "")
        assert request(address, "GET", "/v1/jobs") == {
            "waiting": 1,
            "failed": 0,
            "last_failed": [],
        }
        body = {"users": [{"user_id": "ada", "candidates": ["cakes", "ships"]}]}
        [ranking] = request(address, "POST", "/v1/rerank", body)["rankings"]
        assert (ranking["personalized"], ranking["degraded"]) == (True, False)
        counted = 'p4r_jobs{state="waiting"} 1.0'  # on a busy machine in a later answer
        wait_until(lambda: counted in httpx2.get(f"{address}/metrics", headers=AS_ADMIN).text)
        model.away = False
        wait_until(lambda: user(address)["has_aspects"])
    finally:
        background.stop()
    assert request(address, "GET", "/v1/jobs")["waiting"] == 0


def test_answers_that_cannot_be_used_are_given_up_in_the_end(
    shop: Shop, address: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.updates.worker.RETRY_S", 0.0)
    model.nonsense = True
    act(address)
    for _ in range(ATTEMPTS):
        assert shop.work() == 1
    assert shop.work() == 0
    jobs = request(address, "GET", "/v1/jobs")
    assert (jobs["waiting"], jobs["failed"]) == (0, 1)
    [given_up] = jobs["last_failed"]
    assert (given_up["kind"], given_up["about"], given_up["attempts"]) == (
        "aspects",
        "ships",
        ATTEMPTS,
    )
    assert given_up["problem"]


def test_a_ceiling_binds_all_batches_of_a_process(tmp_path: Path, llm: ScriptedLLM) -> None:
    ceiling = 2_000
    shop = Shop(tmp_path, llm, max_tokens=ceiling)
    with closing(shop), running(create_app(Service(shop.backend))) as address:
        for number in range(4):
            act(address, f"user-{number}", f"{REVIEW} {number}")
            shop.work()
        for number in range(4, 20):
            act(address, f"user-{number}", f"{REVIEW} {number}")
        with pytest.raises(BudgetReachedError, match=r"2,000 tokens of P4R_LLM__MAX_TOKENS"):
            shop.work()
        spent = shop.worker.usage.tokens
        assert 0 < spent <= ceiling
        request(address, "DELETE", "/v1/users/user-0")
        assert shop.work() == shop.worker.done["erase"] == 1, "what needs no LLM is done"
        with pytest.raises(BudgetReachedError):
            shop.work()
        assert shop.worker.usage.tokens == spent


ITEM = {
    "title": "The Kettle Year",
    "description": "Twelve months of tea, one kettle, and the hills behind the house.",
    "fields": {"price": 12.5},
    "reviews": [
        {
            "user_id": name,
            "rating": 5,
            "timestamp": 5,
            "text": f"{name} {what}",
        }
        for name, what in (
            ("bob", "carried this kettle book up every hill and made tea on the way home."),
            ("eve", "gave her copy to a neighbour who cannot sleep before four o'clock."),
        )
    ],
}


def test_an_item_with_reviews_gets_personas(shop: Shop, address: str) -> None:
    put = request(address, "PUT", "/v1/items/kettle", ITEM)
    assert (put["written"], put["reasoning"]) == (False, "queued")
    missing = httpx2.get(f"{address}/v1/items/kettle/personas", headers=AS_ADMIN)
    assert missing.status_code == 404
    assert shop.work() == 1
    found = request(address, "GET", "/v1/items/kettle/personas")
    assert len(found["personas"]) == 2
    assert found["fields"]["item_title"] == "The Kettle Year"
    assert found["fields"]["price"] == 12.5
    request(address, "PUT", "/v1/items/kettle", ITEM)
    assert shop.work() == 1, "the same again is looked at, and changes nothing"
    assert request(address, "GET", "/v1/items/kettle/personas") == found
    request(address, "DELETE", "/v1/items/kettle")
    request(address, "PUT", "/v1/items/kettle", ITEM)
    shop.work()
    assert len(request(address, "GET", "/v1/items/kettle/personas")["personas"]) == 2


def test_an_item_of_which_nothing_is_known(shop: Shop, address: str) -> None:
    request(address, "PUT", "/v1/items/bare", {})
    shop.work()
    assert shop.worker.done["put off"] == 1


def test_erasing_a_user_reaches_the_artifacts_and_the_ledger(shop: Shop, address: str) -> None:
    request(address, "PUT", "/v1/items/kettle", ITEM)
    act(address, "bob", text="bob sails tall ships in his sleep, all night, every night.")
    assert shop.work() == 2
    assert "bob" in everything(shop.artifacts)
    request(address, "DELETE", "/v1/users/bob")
    while shop.work():
        pass
    assert "bob" not in everything(shop.artifacts)
    assert "eve" in everything(shop.artifacts)
    left = request(address, "GET", "/v1/items/kettle/personas")["personas"]
    assert len(left) == 1, "made again from the other review"
    path = shop.settings.qdrant.path.with_name("index-users.sqlite")
    assert b"sails tall ships" not in path.read_bytes()


def everything(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.jsonl")) if path.is_file())


def test_what_was_acknowledged_is_done_after_a_restart(tmp_path: Path, llm: ScriptedLLM) -> None:
    first = Shop(tmp_path, llm)
    with running(create_app(Service(first.backend))) as address:
        act(address)
    first.close()
    second = Shop(tmp_path, llm)
    assert second.work() == 1
    with running(create_app(Service(second.backend))) as address:
        assert user(address)["has_aspects"]
    second.close()


def test_a_worker_comes_to_an_end(shop: Shop, address: str) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(shop.worker.run(stop)))
    thread.start()
    act(address)
    wait_until(lambda: user(address)["has_aspects"])
    stop.set()
    thread.join(timeout=20)
    assert not thread.is_alive()
    line = json.loads((shop.artifacts / "ledger" / "aspects.jsonl").read_text().splitlines()[0])
    assert line["about"] == {"user_id": "ada", "item_id": "ships"}


def test_prometheus_is_told_of_queue_and_cost(shop: Shop, address: str) -> None:
    port = publish_metrics(shop.worker, "127.0.0.1", 0)

    def told() -> str:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics").text

    act(address)
    assert 'p4r_jobs{state="waiting"} 1.0' in told()
    shop.work()
    assert 'p4r_jobs{state="waiting"} 0.0' in told()
    assert 'p4r_worker_total{what="aspects"} 1.0' in told()
    assert f"p4r_llm_tokens {float(shop.worker.usage.tokens)}" in told()
    assert shop.worker.usage.tokens
    with pytest.raises(InputError, match="--metrics-port"):
        publish_metrics(shop.worker, "127.0.0.1", port)
