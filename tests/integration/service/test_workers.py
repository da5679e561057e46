"""`p4r serve --workers`: several processes on one port, killed, replaced, ended under requests."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import Settings
from tests.support.background import PAUSE_S
from tests.support.engines import embedded, on_server
from tests.support.polling import wait_until
from tests.support.service_process import address_of, environment_of, served
from tests.support.serving import AS_ADMIN, CATALOGUE, DIMENSION, make_index

BODY = json.dumps({"users": [{"vector": [1.0] * DIMENSION, "candidates": list(CATALOGUE)}]})
HEADERS = AS_ADMIN | {"Content-Type": "application/json"}
NO_ENCODER = {"P4R_ENCODER__BASE_URL": "http://127.0.0.1:1/v1", "P4R_ENCODER__MODEL": "none"}


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def load(address: str, clients: int = 3) -> Iterator[Counter[str]]:
    """Reranks over kept connections; yields how often each thing happened."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as kept:
            while not over.wait(PAUSE_S):
                try:
                    kept.request("POST", "/v1/rerank", BODY, HEADERS)
                    response = kept.getresponse()
                    answer = json.loads(response.read())
                except (OSError, http.client.HTTPException) as error:
                    seen[type(error).__name__] += 1
                    kept.close()
                    time.sleep(0.05)
                else:
                    fine = response.status == 200 and not answer["degraded"]
                    seen["ok" if fine else f"{response.status} {answer}"] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def sample(address: str, name: str, **labels: str) -> float:
    text = httpx2.get(f"{address}/metrics", headers=AS_ADMIN, timeout=30).text
    families = text_string_to_metric_families(text)
    found = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in found if labels.items() <= one.labels.items())


@pytest.fixture
def settings(qdrant_server: QdrantServer, collection_name: str) -> Settings:
    made = on_server(qdrant_server, collection_name)
    make_index(made)
    return made


def test_workers_are_killed_and_replaced_and_end(settings: Settings, tmp_path: Path) -> None:
    environment = environment_of(settings) | NO_ENCODER
    with served(tmp_path, "--workers", "2", "--port", "0", **environment) as process:
        address = address_of(process)
        assert process.stderr is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        wait_until(lambda: httpx2.get(f"{address}/healthz", timeout=30).status_code == 200)
        first = children(process.pid)
        assert len(first) == 2

        with load(address) as seen:
            wait_until(lambda: seen["ok"] >= 100)
        assert set(seen) == {"ok"}
        asked = {"route": "/v1/rerank", "status": "200"}
        assert sample(address, "p4r_request_seconds_count", **asked) == seen["ok"]
        assert sample(address, "p4r_rerank_under_way") == 0

        os.kill(first[0], signal.SIGKILL)  # its requests are lost; it is replaced
        wait_until(lambda: first[0] not in (now := children(process.pid)) and len(now) == 2)
        assert sample(address, "p4r_request_seconds_count", **asked) == seen["ok"]

        before = children(process.pid)
        with load(address) as seen:
            wait_until(lambda: seen["ok"] >= 20)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: not any(is_there(one) for one in before))
            enough = seen["ok"] + 20
            wait_until(lambda: seen["ok"] >= enough)
        assert set(seen) == {"ok"}, "a rolling restart dropped requests"

        after = children(process.pid)
        assert len(after) == 2
        process.terminate()
        assert process.wait(60) == 0
        assert not any(is_there(one) for one in after)


def test_workers_end_when_what_started_them_is_killed(settings: Settings, tmp_path: Path) -> None:
    environment = environment_of(settings) | NO_ENCODER
    with served(tmp_path, "--workers", "2", "--port", "0", **environment) as process:
        address_of(process)
        wait_until(lambda: len(children(process.pid)) == 2)
        started = children(process.pid)
        process.kill()
        wait_until(lambda: not any(is_there(one) for one in started))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "one process alone can open the embedded index"),
        (["--artifacts", "books"], "--artifacts does the work in one process"),
    ],
)
def test_what_several_workers_cannot_do(
    options: list[str], sentence: str, settings: Settings, tmp_path: Path
) -> None:
    own: Any = settings if options else embedded(tmp_path / "index")
    with served(tmp_path, "--workers", "3", *options, **environment_of(own)) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
