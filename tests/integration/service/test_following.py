"""The service while versions are published: no error, no encoder mixed with another's index."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import Encoder, Settings, open_index
from p4r_qdrant.index import replacing
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.state import Service
from p4r_qdrant.users.records import StoredInteraction
from p4r_qdrant.users.versions import drop_old
from tests.support import publishing
from tests.support.background import PAUSE_S
from tests.support.engines import on_server
from tests.support.hash_encoder import HashEncoder
from tests.support.oracle import brute_force
from tests.support.polling import wait_until
from tests.support.publishing import WORDS, Truths, catalogue_at, live, run, truth
from tests.support.serving import AS_ADMIN, AS_READER, running, with_service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return catalogue_at(tmp_path / "catalogue")


@contextmanager
def served(settings: Settings, encoders: list[HashEncoder]) -> Iterator[tuple[str, Backend]]:
    """A service that looks for what was published twenty times a second."""
    known = {one.fingerprint: one for one in encoders}

    def load(made_with: IndexMetadata) -> Encoder:
        return known[made_with.fingerprint]

    qdrant = settings.qdrant.model_copy(update={"refresh_s": 0.05})
    own = with_service(settings.model_copy(update={"qdrant": qdrant}), deadline_ms=20_000)
    backend = Backend(own, load)
    assert backend.open()
    backend.load_encoder()
    with running(create_app(Service(backend))) as address:
        yield address, backend


def rerank(client: httpx2.Client, user: dict[str, Any], candidates: list[str]) -> dict[str, Any]:
    body = {"users": [{**user, "candidates": candidates}], "explain": 3}
    answer = client.post("/v1/rerank", json=body, headers=AS_READER)
    assert answer.status_code == 200, answer.text
    ranking: dict[str, Any] = answer.json()["rankings"][0]
    assert ranking["personalized"], ranking["reason"]
    assert not ranking["degraded"], ranking["reason"]
    return ranking


def check(ranking: dict[str, Any], scores: dict[str, list[float]]) -> None:
    """The ranking is what brute force says: whole, in order, with the right personas."""
    items = ranking["items"]
    assert sorted(one["item_id"] for one in items) == sorted(scores)
    order = sorted(scores, key=lambda one: (-max(scores[one]), one))
    for one, expected in zip(items, order, strict=True):
        assert abs(one["score"] - max(scores[one["item_id"]])) < 2e-5, "another encoder's score"
        assert abs(one["score"] - max(scores[expected])) < 2e-5, "not in order"
    for one in items[:3]:
        slot = int(re.sub(r".*_P", "", one["persona"]["persona_id"]))
        assert abs(scores[one["item_id"]][slot] - one["score"]) < 2e-5, "another persona"
        assert one["because"]
        assert abs(sum(each["share"] for each in one["because"]) - 1) < 1e-4


def inline(number: int) -> list[dict[str, Any]]:
    text = " ".join(WORDS[number : number + 3])
    return [{"item_id": f"h{number}", "timestamp": number, "summary": text}]


def act(backend: Backend, user_id: str, number: int) -> None:
    """An interaction, kept as the route keeps it."""
    with backend.in_use() as now:
        text = " ".join(WORDS[number : number + 3])
        one = StoredInteraction(user_id, f"h{number}", number, summary=text)
        now.users.add(one.encoded(now.encoder.encode_texts([one.text])[0]))


@pytest.mark.parametrize("publishes", [2, pytest.param(4, marks=pytest.mark.long)])
def test_publishes_while_requests_flow(
    index_settings: Settings, folder: Path, publishes: int
) -> None:
    encoders = [publishing.encoder(number) for number in range(publishes + 1)]
    by_fingerprint = {one.fingerprint: one for one in encoders}
    truths = Truths(folder, encoders)
    catalogues = {one.fingerprint: truth(folder, one) for one in encoders}
    run(folder, encoders[0], index_settings)
    answered = {name: dict.fromkeys(by_fingerprint, 0) for name in ("inline", "known", "walker")}
    over = threading.Event()

    with served(index_settings, encoders) as (address, backend):
        for number in range(4):
            act(backend, f"user-{number}", number)

        def ask(kind: str, user_of: Callable[[int], dict[str, Any]], histories: int) -> None:
            with httpx2.Client(base_url=address, timeout=30) as client:
                turn = 0
                while not over.wait(PAUSE_S):
                    turn = (turn + 1) % histories
                    ranking = rerank(client, user_of(turn), truths.item_ids)
                    check(ranking, truths.scores[ranking["fingerprint"]][turn])
                    answered[kind][ranking["fingerprint"]] += 1

        def walk() -> None:
            """Somebody who goes on acting: each answer counts everything done before."""
            with httpx2.Client(base_url=address, timeout=30) as client:
                step = 0
                while not over.wait(PAUSE_S):
                    act(backend, "walker", step % 10)
                    step += 1
                    ranking = rerank(client, {"user_id": "walker"}, truths.item_ids)
                    encoder = by_fingerprint[ranking["fingerprint"]]
                    done = [truths.histories[one][0] for one in range(min(step, 10))]
                    [vector] = encoder.user_vectors([done], length=10, decay=0.85)
                    assert vector is not None
                    catalogue = catalogues[encoder.fingerprint]
                    check(ranking, brute_force(catalogue, vector.vector, truths.item_ids))
                    answered["walker"][encoder.fingerprint] += 1

        with ThreadPoolExecutor(4) as pool:
            work = [
                pool.submit(ask, "inline", lambda turn: {"history": inline(turn)}, 8),
                pool.submit(ask, "known", lambda turn: {"user_id": f"user-{turn}"}, 4),
                pool.submit(walk),
            ]
            try:
                for encoder in encoders:
                    if encoder is not encoders[0]:
                        run(folder, encoder, index_settings)
                    name = encoder.fingerprint

                    def all_have_moved() -> bool:
                        for one in work:
                            assert not one.done() or one.result() is None
                        return all(counts[name] > 2 for counts in answered.values())  # noqa: B023

                    wait_until(all_have_moved)
            finally:
                over.set()
            for one in work:
                one.result()
        assert backend.problem == ""


def test_an_item_put_after_a_publish_is_in_what_is_live(
    index_settings: Settings, folder: Path
) -> None:
    """However long the service would take to notice by itself."""
    encoders = [publishing.encoder(number) for number in range(3)]
    run(folder, encoders[0], index_settings)
    qdrant = index_settings.qdrant.model_copy(update={"refresh_s": 0.0})
    settings = index_settings.model_copy(update={"qdrant": qdrant})
    body = {
        "personas": [
            {
                "persona_id": "kettle_P0",
                "name": "Kettle Keeper",
                "description": "boils water",
                "preference_rationale": "it boils fast",
            }
        ]
    }
    text = "Kettle Keeper boils water it boils fast"
    with served(settings, encoders) as (address, _):
        for encoder in encoders[1:]:
            run(folder, encoder, index_settings)
            put = httpx2.put(f"{address}/v1/items/kettle", json=body, headers=AS_ADMIN, timeout=30)
            assert put.status_code == 200, put.text
            with httpx2.Client(base_url=address, timeout=30) as client:
                user = {"history": [{"item_id": "h", "timestamp": 1, "summary": text}]}
                ranking = rerank(client, user, ["kettle", "item-1"])
            assert ranking["fingerprint"] == encoder.fingerprint
            assert ranking["items"][0]["item_id"] == "kettle"
            gone = httpx2.delete(f"{address}/v1/items/item-2", headers=AS_ADMIN, timeout=30)
            assert gone.status_code == 200
    with open_index(index_settings) as index:
        assert index.version == live(index_settings)
        assert [one.name for one in index.get("kettle")] == ["Kettle Keeper"]
        assert index.get("item-2") == []
        [match] = index.best_personas([np.ones(index.metadata.dimension)], [["kettle"]])[0]
        assert match.score is not None


@pytest.mark.parametrize("state", [EncoderState.READY, EncoderState.ABSENT])
def test_what_is_put_while_a_version_is_made_is_taken_over(
    index_settings: Settings,
    folder: Path,
    state: EncoderState,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later than the artifacts were read: replaced, new, and taken out; whatever the clocks are.

    Where there is no encoder for what was put, it is taken out all the same, and told.
    """
    encoders = [publishing.encoder(number) for number in range(2)]
    run(folder, encoders[0], index_settings)

    def body(name: str) -> dict[str, Any]:
        one = {"persona_id": f"{name}_P0", "name": name, "description": "boils"}
        return {"personas": [one | {"preference_rationale": "fast"}], "summary": "A kettle."}

    class Waiting(HashEncoder):
        def encode_texts(self, batch: Any) -> Any:
            if not begun.is_set():
                begun.set()
                assert go.wait(60)
            return super().encode_texts(batch)

    begun, go = threading.Event(), threading.Event()
    slow = Waiting(encoders[1].dimension, salt="-1")
    with (
        served(index_settings, encoders) as (address, backend),
        httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        publish = pool.submit(run, folder, slow, index_settings)
        try:
            assert begun.wait(60)
            # The publisher's clock is a minute ahead of the service's.
            monkeypatch.setattr(replacing, "now", lambda: time.time_ns() // 1000 - 60_000_000)
            for item_id in ("kettle", "item-1"):
                client.put(f"/v1/items/{item_id}", json=body("new")).raise_for_status()
            client.delete("/v1/items/item-2").raise_for_status()
            backend.encoder_state = state
        finally:
            go.set()
        publish.result()

        def version() -> str:
            with backend.in_use() as live:
                return live.index.metadata.fingerprint

        wait_until(lambda: version() == slow.fingerprint)
        if state == EncoderState.ABSENT:
            assert client.get("/v1/items/item-2/personas").status_code == 404
            assert client.get("/v1/items/kettle/personas").status_code == 404
            assert (
                "2 items were put during the publish, and no encoder is ready: put them again"
                in caplog.text
            )
            return
        for item_id in ("kettle", "item-1"):
            [only] = client.get(f"/v1/items/{item_id}/personas").json()["personas"]
            assert only["name"] == "new"
        assert client.get("/v1/items/item-2/personas").status_code == 404
        ranking = rerank(client, {"history": inline(0)}, ["item-1", "kettle"])
        assert None not in [one["score"] for one in ranking["items"]]
        assert backend.problem == ""


def test_a_version_whose_encoder_is_not_here_is_not_followed(
    index_settings: Settings, folder: Path
) -> None:
    encoders = [publishing.encoder(number) for number in range(2)]
    run(folder, encoders[0], index_settings)
    with served(index_settings, encoders[:1]) as (address, backend):
        run(folder, encoders[1], index_settings)
        wait_until(lambda: backend.problem)
        told = httpx2.get(f"{address}/metrics", headers=AS_READER, timeout=30).text
        assert "p4r_behind 1.0" in told
        with httpx2.Client(base_url=address, timeout=30) as client:
            ranking = rerank(client, {"history": inline(0)}, ["item-1", "item-2"])
        assert ranking["fingerprint"] == encoders[0].fingerprint


def test_a_dropped_version_takes_its_user_vectors_along(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    settings = on_server(qdrant_server, collection_name)
    encoders = [publishing.encoder(number) for number in range(3)]
    run(folder, encoders[0], settings)
    with served(settings, encoders) as (_, backend):
        act(backend, "ada", 1)
    for encoder in encoders[1:]:
        assert run(folder, encoder, settings).users == 1
    with open_versions(settings) as versions:
        (dropped,), _ = drop_old(settings, versions)
    found = qdrant_server.request("GET", "/collections")["result"]["collections"]
    left = {one["name"] for one in found if one["name"].startswith(collection_name)}
    assert f"{dropped}-users" not in left
    assert sum(name.endswith("-users") for name in left) == 2
