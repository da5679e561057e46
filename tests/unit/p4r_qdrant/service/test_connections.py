"""Limits of connections: number, head, time; a real socket on this machine."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")

from p4r_qdrant import Settings
from p4r_qdrant.service import run
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.state import Service
from p4r_qdrant.settings import ServiceSettings
from tests.support.serving import AS_READER, running, with_service

ASKED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def served(**own: Any) -> Iterator[Any]:
    """A service without an index; yields what opens a connection to it."""
    backend = Backend(with_service(Settings(), **own))
    backend.keep_up = lambda: None  # type: ignore[method-assign]
    with running(create_app(Service(backend))) as address:
        place = urlsplit(address)

        def connect() -> socket.socket:
            return socket.create_connection((place.hostname, place.port), timeout=20)

        yield connect


def answer(connection: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    parts = []
    with closing(connection):
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
    return b"".join(parts)


def health(connect: Any) -> bytes:
    connection = connect()
    connection.sendall(ASKED + b"Connection: close\r\n\r\n")
    return answer(connection)


UPLOAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n["
"""The begin of a body, without a key."""


@pytest.mark.parametrize("begun", [b"", b"\r\n\r\n", ASKED, ASKED + b"\r\n", UPLOAD])
def test_idle_connections_keep_nobody_out(begun: bytes) -> None:
    with served(max_connections=5) as connect:
        held = []
        for _ in range(12):
            held.append(connect())
            held[-1].sendall(begun)
            assert b"200 OK" in health(connect)
        for one in held:
            one.close()


def test_unfinished_bodies_with_the_reading_key_keep_nobody_out() -> None:
    """The body that has taken longest is given up; one that arrives meanwhile is answered."""
    key = f"Authorization: {AS_READER['Authorization']}\r\n".encode()
    head = UPLOAD.replace(b"Host: x\r\n", b"Host: x\r\nContent-Type: application/json\r\n" + key)
    with served(max_connections=5) as connect:
        held = []
        for _ in range(12):
            held.append(connect())
            held[-1].sendall(head)
            assert b"200 OK" in health(connect)
        held[-1].sendall(b"]" + b" " * 997)
        assert b"HTTP/1.1 422" in held[-1].recv(65536)
        assert answer(held[0]) == b""
        for one in held:
            one.close()


def test_a_head_that_is_too_large_is_refused_before_it_ends() -> None:
    with served(max_head_bytes=2048) as connect:
        for filler in (b"X: " + b"x" * 300_000, b"X: y\r\n" * 100_000):
            connection = connect()
            connection.sendall(ASKED)
            with suppress(ConnectionError):
                connection.sendall(filler)
            found = answer(connection)
            assert not found or b"431 Request Header" in found
            assert b"200 OK" in health(connect)
        connection = connect()
        connection.sendall(ASKED + b"X: " + b"x" * 3000)
        assert b"P4R_SERVICE__MAX_HEAD_BYTES" in answer(connection)


def test_what_stands_around_a_body_counts_too() -> None:
    with served(max_head_bytes=2048) as connect:
        connection = connect()
        head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\n[\r\n0\r\n" + b"X: y\r\n" * 1000)
        assert b"431" in answer(connection)


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET /heal", ASKED])
def test_a_head_that_does_not_come(begun: bytes) -> None:
    with served(receive_timeout_s=0.2) as connect:
        connection = connect()
        connection.sendall(begun)
        assert b"408 Request Timeout" in answer(connection)


def test_what_is_no_http() -> None:
    with served() as connect:
        connection = connect()
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"400 Bad Request" in answer(connection)


def test_a_caller_who_still_sends_reads_the_answer() -> None:
    with served(max_body_bytes=1024) as connect:
        for length in (b"3000000", b"500000"):
            connection = connect()
            head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            connection.sendall(head + b"Content-Length: " + length + b"\r\n\r\n")
            connection.sendall(b"x" * int(length))
            assert b"413" in answer(connection)


def test_connections_fit_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 400))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    own = run._with_room(ServiceSettings(max_connections=500))
    assert (own.max_connections, set_to) == (400 - run.SPARE_FILES, [(400, 400)])
    assert run._with_room(ServiceSettings(max_connections=100)).max_connections == 100
