"""Requests and connections that want to hold a service up, while another client measures it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.campaign import Attempt, Campaign
from tests.support.engines import embedded
from tests.support.polling import wait_until
from tests.support.service_process import (
    address_of,
    environment_of,
    rerank,
    served,
    wait_until_ready,
)
from tests.support.serving import AS_READER, READER, history, make_index

MANY = 1_300_000
BODIES = {
    "lists": "[" + "[]," * MANY + "[]]",
    "users": '{"users":[' + "{}," * MANY + "{}]}",
    "candidates": '{"users":[{"candidates":[' + "[]," * MANY + "[]]}]}",
    "names": '{"filter":{' + ",".join(f'"{number}":1' for number in range(MANY // 4)) + "}}",
    "depth": '{"filter":' + "[" * 2_000_000 + "]" * 2_000_000 + "}",
    "numbers": '{"users":[{"vector":[' + "1," * MANY + "1]}]}",
    "a text": '{"users":[{"candidates":["' + "x" * 3_900_000 + '"]}]}',
}
"""Bodies of about 4 MB, the first three of which once stopped a whole service."""
REFUSED = {400, 401, 413, 422}
MEMORY = 400 << 20
"""Bytes by which attacks may raise the most memory that the service has taken."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of `p4r serve` in a process of its own, and the id of the process."""
    folder = tmp_path_factory.mktemp("service")
    settings = embedded(folder / "index")
    make_index(settings)
    keys = environment_of(settings) | {"P4R_SERVICE__API_KEY": READER}
    with served(folder, "--port", "0", **keys, P4R_SERVICE__RECEIVE_TIMEOUT_S="5") as process:
        address = address_of(process)
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        wait_until_ready(address)
        rerank(address, history=history("All about ships."))
        yield address, process.pid


def most_memory(process: int) -> int:
    """The most memory that a process has taken, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def another_client(address: str, attempt: Attempt) -> Iterator[Callable[[], None]]:
    """Reranks all the while; each answer is checked and timed. Yields what waits for two more."""
    answers, over, errors = [0], threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not over.is_set():
                with attempt.timed():
                    ranking = rerank(address, history=history("All about ships."))
                assert ranking["items"][0]["item_id"] == "ships"
                answers[0] += 1
        except BaseException as error:
            errors.append(error)

    def goes_on() -> None:
        before = answers[0]
        wait_until(lambda: answers[0] > before + 1 or errors, message="it answers no more")
        if errors:
            raise errors[0]

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        goes_on()
        yield goes_on
        goes_on()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("key", ["without a key", "with the reading key"])
def test_large_bodies(campaign: Campaign, service: tuple[str, int], key: str) -> None:
    """Each is refused, costs little memory, and the other client goes on."""
    address, process = service
    headers = {"Content-Type": "application/json"} | (AS_READER if key[4:7] != "out" else {})
    scenario = campaign(f"4 MB of values in a body, {key}", "an answer to another client")
    for attempt in scenario.attempts(1):
        with (
            attempt,
            another_client(address, attempt) as goes_on,
            httpx2.Client(timeout=60) as client,
        ):
            before = most_memory(process)
            for name in BODIES:
                answer = client.post(f"{address}/v1/rerank", content=BODIES[name], headers=headers)
                assert answer.status_code in REFUSED, f"{name}: {answer.status_code}"
                assert len(answer.content) < 10_000, name
                goes_on()
            assert most_memory(process) - before < MEMORY


HEAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n"
BODY = HEAD + b"Content-Type: application/json\r\nContent-Length: 100000\r\n"
KEY = b"Authorization: Bearer " + READER.encode() + b"\r\n"
HELD = {
    "idle connections": (600, b""),
    "heads without an end": (600, HEAD),
    "bodies without an end, no key": (600, BODY + b"\r\n["),
    "bodies without an end, a key": (400, BODY + KEY + b"\r\n["),
}
"""Connections, and what each sends at once. The service has room for 500."""


@pytest.mark.parametrize("name", list(HELD))
def test_slow_connections(campaign: Campaign, service: tuple[str, int], name: str) -> None:
    """Connections that send a byte now and then, until the service closes them."""
    address, process = service
    place = urlsplit(address)
    count, begun = HELD[name]
    scenario = campaign(f"{count} {name}", "an answer to another client")
    for attempt in scenario.attempts(1):
        held: list[socket.socket] = []
        with attempt, another_client(address, attempt) as goes_on:
            before = most_memory(process)
            for _ in range(count):
                held.append(socket.create_connection((place.hostname, place.port), timeout=20))
                held[-1].sendall(begun)
            for _ in range(3):
                goes_on()
                for one in held:
                    with suppress(OSError):  # closed by the service, as it may be
                        one.sendall(b"X" if begun else b"\r\n")
            assert most_memory(process) - before < MEMORY
        for one in held:
            one.close()
