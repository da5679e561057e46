"""Real processes and kill -9: what was acknowledged is there afterwards, and nobody is lied to."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from devtools.qdrant_process import PrivateQdrant, QdrantServer
from p4r_qdrant import Settings
from tests.support.background import PAUSE_S
from tests.support.campaign import LONG, Attempt, Campaign
from tests.support.engines import NewIndex, on_server
from tests.support.network import Link, links
from tests.support.polling import wait_until
from tests.support.service_process import address_of, environment_of, wait_until_ready
from tests.support.service_process import served as started
from tests.support.serving import (
    AS_ADMIN,
    CATALOGUE,
    history,
    make_index,
)

ALL = list(CATALOGUE)
KILLS = 2


@contextmanager
def served(folder: Path, settings: Settings, **more: str) -> Iterator[tuple[str, Any]]:
    """A service, ready, that is killed (kill -9) at the end."""
    with started(folder, "--port", "0", **environment_of(settings), **more) as process:
        address = address_of(process)
        # What it says from now on must go somewhere, or it would wait.
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        wait_until_ready(address)
        yield address, process


class Acknowledged:
    """Writes without a pause, and what of them was answered."""

    def __init__(self) -> None:
        self.interactions: list[tuple[str, int]] = []
        self.items: dict[str, set[str]] = {}
        self.jobs = set[str]()
        self.refused: list[tuple[int, str | None]] = []
        self.number = itertools.count(1)

    def write(self, address: str) -> None:
        """Ends when the service does not answer any more."""
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client:
            while self._write_three(client, next(self.number)):
                pass

    def _write_three(self, client: httpx2.Client, number: int) -> bool:
        user_id, item_id = f"user-{number % 3}", f"item-{number % 5}"
        interaction = {"item_id": "ships", "timestamp": number, "rating": 5, "text": "Fine."}
        personas = [
            {
                "persona_id": f"{item_id}_P{slot}_{number}",
                "name": "Somebody",
                "description": f"number {number}",
                "preference_rationale": "so",
            }
            for slot in range(1 + number % 3)
        ]
        reasoned = {"title": "A thing", "description": f"number {number}"}
        try:
            if self._sent(client, "POST", f"/v1/users/{user_id}/interactions", interaction):
                self.interactions.append((user_id, number))
            if self._sent(client, "PUT", f"/v1/items/{item_id}", {"personas": personas}):
                self.items[item_id] = {one["persona_id"] for one in personas}
            if self._sent(client, "PUT", f"/v1/items/new-{number}", reasoned):
                self.jobs.add(f"new-{number}")
        except httpx2.TransportError:
            return False
        return True

    def _sent(self, client: httpx2.Client, method: str, path: str, body: Any) -> bool:
        answer = client.request(method, path, json=body)
        if answer.is_success:
            return True
        self.refused.append((answer.status_code, answer.headers.get("retry-after")))
        return False

    def check(self, address: str) -> None:
        """Everything that was answered is there, whole, and a rerank counts it."""
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client:
            for user_id in {user_id for user_id, _ in self.interactions}:
                lines = client.get(f"/v1/users/{user_id}/export").text.splitlines()
                held = {json.loads(line)["timestamp"] for line in lines}
                assert {at for owner, at in self.interactions if owner == user_id} <= held
                body = {"users": [{"user_id": user_id, "candidates": ALL}]}
                [ranking] = client.post("/v1/rerank", json=body).json()["rankings"]
                assert (ranking["personalized"], ranking["degraded"]) == (True, False)
            for item_id, persona_ids in self.items.items():
                found = client.get(f"/v1/items/{item_id}/personas").json()["personas"]
                numbers = {one["persona_id"].rpartition("_")[2] for one in found}
                assert len(numbers) == 1, "two writes of an item, side by side"
                if persona_ids != {one["persona_id"] for one in found}:  # one that was under way
                    assert int(numbers.pop()) > int(min(persona_ids).rpartition("_")[2])
            assert client.get("/v1/jobs").json()["waiting"] >= len(self.jobs)


def test_a_service_that_is_killed_loses_nothing_it_acknowledged(
    campaign: Campaign, new_index: NewIndex, tmp_path: Path
) -> None:
    scenario = campaign(f"p4r serve, {new_index.engine}: kill -9 under writes", "the next start")
    for attempt in scenario.attempts(1):
        settings = new_index(attempt.number)
        with attempt:
            make_index(settings)
            written = Acknowledged()
            for _ in range(KILLS):
                with served(tmp_path, settings) as (address, process):
                    written.check(address)
                    with ThreadPoolExecutor(1) as pool:
                        # One writer: of two, nobody could say which write of an item came last.
                        writing = pool.submit(written.write, address)
                        before = len(written.jobs)
                        wait_until(lambda: len(written.jobs) > before + 3, 60)  # noqa: B023
                        time.sleep(attempt.random.random() / 5)
                        process.kill()
                        attempt.killed()
                        writing.result()
            assert written.refused == []
            with attempt.timed(), served(tmp_path, settings) as (address, _):
                written.check(address)


def test_a_qdrant_that_is_killed_under_load(
    campaign: Campaign, private_qdrant: PrivateQdrant, tmp_path: Path
) -> None:
    """None hang, none lie, and it is back to normal by itself."""
    scenario = campaign("Qdrant: kill -9 under a service", "until all is normal again")
    private_qdrant.start()
    for attempt in scenario.attempts(1):
        settings = on_server(private_qdrant.server, f"personas-{attempt.number}")
        with attempt:
            make_index(settings)
            under_load(attempt, private_qdrant.kill, private_qdrant.start, settings, tmp_path)
            attempt.killed()


@pytest.mark.skipif(not LONG, reason="make chaos ROUNDS=2 or more: it waits for time-outs")
@pytest.mark.parametrize("reset", [False, True], ids=["delayed", "lost"])
def test_a_network_that_is_cut_under_load(
    campaign: Campaign, private_qdrant: PrivateQdrant, tmp_path: Path, reset: bool
) -> None:
    """Between the service and Qdrant; what was sent meanwhile arrives late, or never."""
    what = "is lost" if reset else "arrives late"
    scenario = campaign(f"network cut under a service, what was sent {what}", "until all is normal")
    private_qdrant.start()
    server = private_qdrant.server
    for attempt in scenario.attempts(1):
        settings = on_server(server, f"personas-{attempt.number}")
        with attempt, links(urlsplit(server.url).port or 0, server.grpc_port) as both:
            make_index(settings)
            far = QdrantServer(f"http://127.0.0.1:{both[0].port}", both[1].port, server.api_key)
            behind = on_server(far, settings.qdrant.collection)

            def cut(both: Sequence[Link] = both) -> None:
                for one in both:
                    one.cut()

            def mend(attempt: Attempt = attempt, both: Sequence[Link] = both) -> None:
                time.sleep(4 * attempt.random.random())
                for one in both:
                    one.mend(reset=reset)

            under_load(attempt, cut, mend, behind, tmp_path, P4R_QDRANT__TIMEOUT_S="2")


def under_load(
    attempt: Attempt,
    fail: Callable[[], object],
    mend: Callable[[], object],
    settings: Settings,
    tmp_path: Path,
    **more: str,
) -> None:
    answers: list[str] = []
    over = threading.Event()
    users: list[Mapping[str, Any]] = [
        {"user_id": "reader"},
        {"history": history("All about ships.")},
    ]
    written = Acknowledged()

    def ask(address: str, user: Mapping[str, Any]) -> None:
        body = {"users": [{**user, "candidates": ALL}]}
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client:
            while not over.wait(PAUSE_S):
                answer = client.post("/v1/rerank", json=body)
                assert answer.status_code == 200, answer.text
                [ranking] = answer.json()["rankings"]
                if ranking["degraded"]:
                    assert ranking["reason"] in ("index_unavailable", "deadline", "overloaded")
                    assert [one["item_id"] for one in ranking["items"]] == ALL
                    assert {one["score"] for one in ranking["items"]} == {None}
                else:
                    assert ranking["personalized"], "it is lied to"
                    assert ranking["items"][0]["item_id"] == "ships"
                    assert ranking["items"][0]["because"][0]["share"] == pytest.approx(1, abs=1e-3)
                answers.append(ranking["reason"] or "ok")

    def write(address: str) -> None:
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client:
            while not over.wait(PAUSE_S):
                assert written._write_three(client, next(written.number))

    with (
        served(tmp_path, settings, P4R_SERVICE__DEADLINE_MS="1000", **more) as (address, _),
        ThreadPoolExecutor(3) as pool,
    ):
        body = {"item_id": "ships", "timestamp": 1}
        path = f"{address}/v1/users/reader/interactions"
        assert httpx2.post(path, json=body, headers=AS_ADMIN, timeout=30).json()["encoded"]
        work = [pool.submit(ask, address, user) for user in users] + [pool.submit(write, address)]
        try:
            wait_until(lambda: len(answers) > 20, 60)
            time.sleep(attempt.random.random())
            fail()
            since = len(answers)
            wait_until(lambda: any(why != "ok" for why in answers[since:]), 30)
            time.sleep(attempt.random.random())
            with attempt.timed():
                mend()
                wait_until(lambda: answers[-20:] == ["ok"] * 20, 60)
            acknowledged = len(written.jobs)
            wait_until(lambda: len(written.jobs) > acknowledged, 60)
            refused = len(written.refused)  # one may have waited since before
            wait_until(lambda: len(written.jobs) > acknowledged + 3, 60)
        finally:
            over.set()
        for one in work:
            one.result()
        assert set(written.refused) <= {(503, "1")}
        assert len(written.refused) == refused, "refused although Qdrant was back"
        written.check(address)
