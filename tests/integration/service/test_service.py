"""The service on a real port, with both engines, and what it does when Qdrant goes away."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import Settings
from tests.support.engines import embedded, on_server
from tests.support.polling import wait_until
from tests.support.service_process import address_of, rerank, served, wait_until_ready
from tests.support.serving import (
    AS_ADMIN,
    AS_READER,
    CATALOGUE,
    DIMENSION,
    READER,
    history,
    ids,
    make_app,
    make_index,
    running,
    with_service,
)

ALL = list(CATALOGUE)
VECTOR = [1.0] * DIMENSION


@pytest.fixture
def base(index_settings: Settings) -> Settings:
    make_index(index_settings)
    return index_settings


def test_over_the_wire(base: Settings) -> None:
    with running(make_app(with_service(base))) as address:
        for item_id in ALL:
            assert ids(rerank(address, history=history(item_id)))[0] == item_id
        put = httpx2.put(
            f"{address}/v1/items/moss",
            json={
                "personas": [
                    {
                        "persona_id": "moss_P1",
                        "name": "Moss Watcher",
                        "description": "moss on stones",
                        "preference_rationale": "moss",
                    }
                ]
            },
            headers=AS_ADMIN,
        )
        assert put.status_code == 200, put.text
        found = rerank(address, history=history("moss"), candidates=["ships", "moss"])
        assert ids(found) == ["moss", "ships"]
        gone = httpx2.delete(f"{address}/v1/items/moss", headers=AS_ADMIN)
        assert gone.status_code == 200


def test_two_writers_of_one_item_at_once(base: Settings) -> None:
    """It settles on one of the two, whole; and of two in turn on the later one."""

    def body(writer: int, count: int) -> dict[str, Any]:
        return {
            "personas": [
                {
                    "persona_id": f"moss_P{slot}",
                    "name": f"Writer {writer}",
                    "description": "moss on stones",
                    "preference_rationale": "moss",
                }
                for slot in range(count)
            ]
        }

    with running(make_app(with_service(base))) as address, ThreadPoolExecutor(2) as pool:

        def put(writer: int, count: int) -> bool:
            path = f"{address}/v1/items/moss"
            answer = httpx2.put(path, json=body(writer, count), headers=AS_ADMIN, timeout=30)
            assert answer.status_code == 200, answer.text
            return bool(answer.json()["written"])

        def names() -> list[str]:
            path = f"{address}/v1/items/moss/personas"
            found = httpx2.get(path, headers=AS_READER, timeout=30).json()["personas"]
            return [one["name"] for one in found]

        for _ in range(8):
            written = list(pool.map(put, (1, 2), (3, 1)))
            assert any(written)
            assert names() in (["Writer 1"] * 3, ["Writer 2"])
            put(3, 2)
            assert names() == ["Writer 3"] * 2


def test_a_body_that_is_too_large_is_answered_before_it_is_read(base: Settings) -> None:
    with running(make_app(with_service(base))) as address:
        answer = httpx2.post(f"{address}/v1/rerank", content=b"x" * (50 << 20), headers=AS_READER)
        assert answer.status_code == 413
        assert rerank(address)["personalized"] is False


def test_a_qdrant_that_goes_away_and_comes_back(private_qdrant: PrivateQdrant) -> None:
    private_qdrant.start()
    base = on_server(private_qdrant.server, "personas")
    make_index(base)
    with running(make_app(with_service(base, deadline_ms=2000))) as address:
        assert not rerank(address, vector=VECTOR)["degraded"]
        private_qdrant.kill()
        lost = rerank(address, vector=VECTOR)
        assert (lost["degraded"], lost["personalized"]) == (True, False)
        assert lost["reason"] in ("index_unavailable", "deadline")
        assert ids(lost) == ALL
        assert httpx2.get(f"{address}/readyz", timeout=30).status_code == 503
        personas = httpx2.get(f"{address}/v1/items/ships/personas", headers=AS_READER, timeout=30)
        assert personas.status_code == 503
        assert personas.headers["retry-after"] == "1"
        assert private_qdrant.url not in personas.text
        assert httpx2.get(f"{address}/healthz").status_code == 200
        private_qdrant.start()
        wait_until(lambda: not rerank(address, vector=VECTOR)["degraded"])
        wait_until_ready(address)


def test_it_begins_before_qdrant_does(private_qdrant: PrivateQdrant) -> None:
    private_qdrant.start()
    base = on_server(private_qdrant.server, "personas")
    make_index(base)
    private_qdrant.stop()
    with running(make_app(with_service(base))) as address:
        assert ids(rerank(address, vector=VECTOR)) == ALL
        assert httpx2.get(f"{address}/readyz", timeout=30).status_code == 503
        private_qdrant.start()
        wait_until_ready(address)
        assert not rerank(address, vector=VECTOR)["degraded"]


# --- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_asked_to_end(tmp_path: Path, how: signal.Signals) -> None:
    make_index(embedded(tmp_path / "p4r-index"))
    with served(tmp_path, "--port", "0", P4R_SERVICE__API_KEY=READER) as process:
        address = address_of(process)
        wait_until_ready(address)
        assert ids(rerank(address, history=history("roses")))[0] == "roses"
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == (0 if how == signal.SIGINT else -how), errors
        assert (tmp_path / "p4r-index" / "rows.json").is_file(), "the index was closed"
        assert all(isinstance(json.loads(line), dict) for line in errors.splitlines())
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "environment", "code", "said"),
    [
        ((), {}, 2, "set P4R_SERVICE__ADMIN_KEY"),
        (("--anonymous", "--host", "0.0.0.0"), {}, 2, "not on 0.0.0.0"),
        (("--anonymous",), {}, 2, "there is no persona index"),
        (
            ("--host", "no such host"),
            {"P4R_SERVICE__API_KEY": READER},
            2,
            "cannot listen on no such",
        ),
    ],
)
def test_a_service_that_cannot_begin_is_one_sentence(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], code: int, said: str
) -> None:
    with served(tmp_path, *options, **environment) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    [line] = [line for line in errors.splitlines() if not line.startswith("{")]
    assert line.startswith("p4r: ")
    assert said in line
