"""Which node of a cluster is asked, what is asked again elsewhere, and what is said of lists."""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexRefusedError,
    IndexUnavailableError,
    SettingsError,
)
from p4r_qdrant.index.server import cluster, connection, nodes
from p4r_qdrant.index.server.cluster import Seen
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.node import Node, _channel_options
from p4r_qdrant.settings import QdrantSettings

ALGORITHMS = "grpc.compression_enabled_algorithms_bitset"
URLS = [f"http://node-{number}.test:6333" for number in range(3)]


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Rpc(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """An error of a gRPC call."""

    def __init__(self, code: str, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> Any:
        return grpc.StatusCode[self._code]

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return ()


for name in grpc.Call.__abstractmethods__ | grpc.RpcContext.__abstractmethods__:
    if name not in Rpc.__dict__:
        setattr(Rpc, name, lambda *_: None)
Rpc.__abstractmethods__ = frozenset()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    time = Clock()
    for module in (connection, nodes):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(nodes, "_health", {})
    monkeypatch.setattr(nodes, "_FIRST", 0)
    monkeypatch.setattr(connection, "check_addresses", lambda _: [])
    return time


@pytest.fixture
def connected(clock: Clock) -> Iterator[Connection]:
    settings = QdrantSettings(url=",".join(URLS), timeout_s=4, transport="grpc")
    opened = Connection(settings, "the collection 'books'")
    for node in opened._nodes.all:
        node.__dict__["points"] = SimpleNamespace(Query=lambda: None)
    yield opened
    opened.close()


def answering(connected: Connection, wrong: dict[int, Callable[[], Exception]]) -> list[int]:
    """Let some nodes fail; returns the list of the nodes that are asked."""
    asked: list[int] = []

    def query(number: int) -> int:
        asked.append(number)
        if number in wrong:
            raise wrong[number]()
        return number

    for number, node in enumerate(connected._nodes.all):
        node.__dict__["points"] = SimpleNamespace(Query=lambda own=number: query(own))
    return asked


def ask(connected: Connection, *, spread: bool = True) -> int:
    found: int = connected.call(connected.points.Query, spread=spread)
    return found


def away() -> Exception:
    return Rpc("UNAVAILABLE")


def test_nodes_take_turns_or_one_is_asked(connected: Connection) -> None:
    answering(connected, {})
    assert [ask(connected) for _ in range(4)] == [0, 1, 2, 0]
    assert [ask(connected, spread=False) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED"])
def test_a_node_that_is_away_costs_one_call_and_is_left_alone(
    connected: Connection, clock: Clock, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong: dict[int, Callable[[], Exception]] = {0: lambda: Rpc(code)}
    asked = answering(connected, wrong)
    assert ask(connected) == 1
    assert asked == [0, 1]
    assert {ask(connected) for _ in range(6)} == {1, 2}
    assert asked.count(0) == 1
    assert len(caplog.messages) == 1
    assert URLS[0] in caplog.messages[0]

    clock.now += nodes.AWAY_S  # one call tries it, and the pause doubles
    for _ in range(6):
        ask(connected)
    assert asked.count(0) == 2
    clock.now += nodes.AWAY_S
    for _ in range(6):
        ask(connected)
    assert asked.count(0) == 2

    wrong.clear()
    clock.now += nodes.AWAY_S
    assert 0 in {ask(connected) for _ in range(6)}
    assert "answers again" in caplog.messages[-1]


def test_what_one_connection_finds_all_know(connected: Connection, clock: Clock) -> None:
    answering(connected, {0: away})
    ask(connected)
    other = Connection(connected._settings, "users")
    try:
        asked = answering(other, {0: away})
        assert ask(other, spread=False) == 1
        assert asked == [1]
    finally:
        other.close()


def test_addresses_that_do_not_answer_at_the_start_are_left_alone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "check_addresses", lambda _: [URLS[0]])
    settings = QdrantSettings(url=",".join(URLS), transport="grpc")
    opened = [Connection(settings, "books") for _ in range(2)]
    asked = answering(opened[0], {})
    assert ask(opened[0], spread=False) == 1
    assert asked == [1]
    assert len([one for one in caplog.messages if URLS[0] in one]) == 1
    for one in opened:
        one.close()


def test_with_all_nodes_away_each_is_tried_once(connected: Connection) -> None:
    asked = answering(connected, dict.fromkeys(range(3), away))
    with pytest.raises(IndexUnavailableError):
        ask(connected)
    assert sorted(asked) == [0, 1, 2]
    asked.clear()
    with pytest.raises(IndexUnavailableError):
        ask(connected)
    assert sorted(asked) == [0, 1, 2]


def test_no_further_node_after_the_time_out(connected: Connection, clock: Clock) -> None:
    def hangs() -> Exception:
        clock.now += connected.call_s
        return Rpc("DEADLINE_EXCEEDED")

    asked = answering(connected, dict.fromkeys(range(3), hangs))
    with pytest.raises(IndexUnavailableError, match="within 4 s"):
        ask(connected)
    assert len(asked) == 2


def test_a_refusal_is_not_asked_for_again(connected: Connection) -> None:
    asked = answering(connected, {0: lambda: Rpc("INVALID_ARGUMENT", "no")})
    with pytest.raises(IndexRefusedError):
        ask(connected)
    assert asked == [0]


def test_a_collection_that_a_node_does_not_know_yet(connected: Connection) -> None:
    wrong: dict[int, Callable[[], Exception]] = {0: lambda: Rpc("NOT_FOUND")}
    answering(connected, wrong)
    assert ask(connected) == 1
    wrong |= {1: wrong[0], 2: wrong[0]}
    with pytest.raises(IndexMismatchError):
        ask(connected)


def test_pauses_double_and_end() -> None:
    pauses = [nodes._pause_s(failures) for failures in range(1, 40)]
    assert all(one <= other for one, other in pairwise(pauses))
    assert pauses[0] == nodes.AWAY_S
    assert pauses[-1] == nodes.LONGEST_AWAY_S


# --- lists of addresses --------------------------------------------------------------------------


def test_each_address_has_its_port_and_half_of_the_time() -> None:
    settings = QdrantSettings(url="http://a:1, http://b:2", grpc_ports="3, 4", timeout_s=2)
    assert [(one.url, one.grpc_port, one.timeout_s) for one in settings.each] == [
        ("http://a:1", 3, 1.0),
        ("http://b:2", 4, 1.0),
    ]
    [alone] = QdrantSettings(url="http://a:1", timeout_s=2).each
    assert (alone.grpc_port, alone.timeout_s) == (6334, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "http://a:1,ftp://b"}, "url must look like"),
        ({"url": "http://a:1,"}, "url must look like"),
        ({"url": "http://a:1,http://a:1"}, "names an address twice"),
        ({"url": "http://a:1,http://b:1", "grpc_ports": "1"}, "1 ports, and url has 2"),
        ({"url": "http://a:1", "grpc_ports": "x"}, "must be port numbers"),
        ({"url": "http://a:1", "grpc_ports": "70000"}, "must be port numbers"),
        ({"url": "http://localhost:1,http://b:1", "api_key": "k"}, "unencrypted to b"),
    ],
)
def test_a_wrong_list(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QdrantSettings(**given)


def one(number: int, **more: Any) -> Seen:
    return Seen(URLS[number], **({"version": "1.16.0"} | more))


def test_what_is_said_of_addresses(caplog: pytest.LogCaptureFixture) -> None:
    together = frozenset({"1", "2"})
    cluster._judge([one(0, peers=together), one(1, peers=together), one(2)])
    assert not caplog.messages
    cluster._judge([one(0), one(1, version="1.17.0"), one(2, version="")])
    [(_, level, warning)] = caplog.record_tuples
    assert (level, "has version 1.17.0" in warning) == (logging.WARNING, True)
    with pytest.raises(AuthenticationError, match=f"{URLS[1]} refused the API key and the others"):
        cluster._judge([one(0), one(1, is_refused=True)])
    with pytest.raises(SettingsError, match=f"{URLS[1]} is not in the cluster of {URLS[0]}"):
        cluster._judge([one(0, peers=together), one(1, peers=frozenset({"3"}))])
    with pytest.raises(IndexUnavailableError, match="on any of"):
        cluster._judge([one(0, version=""), one(1, version="")])


def test_no_answer_is_compressed() -> None:
    """Qdrant compresses for whoever says that it can read gzip, which gRPC and httpx say."""
    one = Node(QdrantSettings(url=URLS[0]), "test")
    headers = one.client.http.client._client.headers
    assert headers["accept-encoding"] == "identity"
    assert _channel_options(one.settings, repeats=True)[ALGORITHMS] == 1
    one.close()
