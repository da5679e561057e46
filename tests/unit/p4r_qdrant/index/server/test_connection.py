"""How the connection to a server waits, and what it says of refusals."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import UnexpectedResponse

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexRefusedError,
    IndexUnavailableError,
    P4RError,
    RateLimitedError,
)
from p4r_qdrant.index.server import connection
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.settings import QdrantSettings
from tests.support.messages import sentence

URL = "http://qdrant.test:6333"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited; time passes only then."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(connection, "time", clock)
    return waited


@pytest.fixture
def connected() -> Iterator[Connection]:
    settings = QdrantSettings(url=URL, timeout_s=10, transport="grpc")
    opened = Connection(settings, "the collection 'books'")
    yield opened
    opened.close()


def failing(*errors: Exception) -> Callable[[], str]:
    """A request that fails with each of these errors, then succeeds."""
    left = list(errors)

    def request() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return request


def rest(status: int, body: bytes = b"{}") -> UnexpectedResponse:
    return UnexpectedResponse(status, "?", body, httpx.Headers())


class Answer(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str, **trailing: str) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return [(name.replace("_", "-"), value) for name, value in self._trailing.items()]


Answer.__abstractmethods__ = frozenset()
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("refusal", "waited"),
    [
        (ResourceExhaustedResponse("Retry after 2s", 2), 2),
        (Answer(BUSY, "Rate limiting exceeded", retry_after="3"), 3),
        (rest(429), 1),
        (QdrantException("Retry-After header value is not a valid integer: 1.5"), 1.5),
        (Answer(BUSY, "Rate limit exceeded"), 1),
        (Answer(grpc.StatusCode.INTERNAL, "0 of 0 read operations failed"), 0.1),
        (Answer(grpc.StatusCode.INTERNAL, "Service internal error: channel closed"), 0.1),
        (rest(500, b'{"status":{"error":"Service internal error: channel closed"}}'), 0.1),
    ],
)
def test_what_passes_is_waited_for(
    connected: Connection, waits: list[float], refusal: Exception, waited: float
) -> None:
    assert connected.call(failing(refusal, refusal)) == "done"
    assert waits == [waited, waited]


def test_a_wait_beyond_the_time_out_is_not_begun(connected: Connection, waits: list[float]) -> None:
    four = ResourceExhaustedResponse("Retry after 4s", 4)
    with pytest.raises(RateLimitedError) as caught:
        connected.call(failing(four, four, four))
    assert waits == [4, 4]
    assert caught.value.retry_after_s == 4
    assert "P4R_QDRANT__TIMEOUT_S" in sentence(caught)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (rest(400, b'{"status": {"error": "Bad request: no"}}'), IndexRefusedError, "request: no"),
        (rest(413), IndexRefusedError, "books"),
        (Answer(BUSY, "larger, please split your request"), IndexRefusedError, "split"),
        (Answer(grpc.StatusCode.INVALID_ARGUMENT, "Index required"), IndexRefusedError, "Index re"),
        (Answer(BUSY, "Received message larger than max"), IndexRefusedError, "larger than max"),
        (QdrantException("?"), IndexUnavailableError, "does not answer as Qdrant does"),
        (rest(403), AuthenticationError, "P4R_QDRANT__API_KEY"),
        (rest(404), IndexMismatchError, "is gone"),
        (rest(503), IndexUnavailableError, "cannot be reached"),
        (AssertionError("Search returned None"), IndexUnavailableError, "P4R_QDRANT__URL"),
    ],
)
def test_a_refusal_is_no_outage(
    connected: Connection, error: Exception, kind: type[P4RError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        connected.call(failing(error))
    assert isinstance(caught.value, IndexUnavailableError) is (kind is IndexUnavailableError)
    assert said in sentence(caught)
