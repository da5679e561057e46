"""The connection to a Qdrant server: its channels, and its failures as errors of this project."""

from __future__ import annotations

import json
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import grpc
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.grpc import HealthCheckRequest, PointsStub, QdrantStub
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexRefusedError,
    IndexUnavailableError,
    P4RError,
    RateLimitedError,
    StorageFullError,
    for_log,
)
from p4r_qdrant.index.server.rest import RestPoints
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import QdrantSettings

PROBE_S = 2.0
"""Seconds to wait for the gRPC port before REST is tried."""
REST_FOR_S = 60.0
"""Seconds until a gRPC port that did not answer is tried again."""
DEFAULT_WAIT_S = 1.0
"""Wait after a status 429 that does not say how long to wait."""

Transport = Literal["grpc", "rest"]
Result = TypeVar("Result")

_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "qdrant.Points"}, {"service": "qdrant.Collections"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_CHANNEL = {
    "grpc.service_config": json.dumps(_RETRY),
    "grpc.enable_retries": 1,
    "grpc.max_receive_message_length": -1,
    # Unset, a server that was away for minutes is not found again for two more.
    "grpc.max_reconnect_backoff_ms": 1000,
}
_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    413: "OUT_OF_RANGE",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status -> the gRPC code of the same meaning."""
_REFUSED = frozenset(
    {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ALREADY_EXISTS"}
    | {"RESOURCE_EXHAUSTED"}
)
_NO_GRPC = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "UNKNOWN", "INTERNAL"})
"""The gRPC codes of a closed port, and of a port on which another program listens."""
_NO_INTEGER = re.compile("not a valid integer: (.*)")
"""How qdrant-client says that Retry-After is a date, or a fraction."""
PASSING = ("0 of 0 read operations failed", "channel closed")
"""Qdrant's messages while it makes a collection, and for a write while its settings change."""
_log = logging.getLogger(__name__)
_rest_since: dict[tuple[str | None, int], float] = {}
"""(address, gRPC port) -> when it was last found that only REST answers there."""


class _PassingError(IndexUnavailableError):
    """What the server does with the collection now is over in a moment."""

    retry_after_s = 0.1


class Connection:
    """A client of the server in the settings. location: what is used there, for people.

    Calls go over gRPC; over REST alone if only that answers, or if the settings say so. Raises
    IndexUnavailableError if neither answers.
    """

    def __init__(self, settings: QdrantSettings, location: str) -> None:
        self._settings = settings
        self._location = location
        self._closed = False
        self._channel = channel(settings)
        try:
            self.transport: Transport = self._find_transport()
        except BaseException:
            self._channel.close()
            raise

    @cached_property
    def client(self) -> QdrantRemote:
        """The client for everything that is not urgent.

        What QdrantClient adds, inference in the client, takes 30 ms to start.
        """
        return _client(self._settings, self.transport)

    @cached_property
    def points(self) -> Any:
        """A `PointsStub` for queries: qdrant-client runs every call through Python twice."""
        if self.transport == "rest":
            return RestPoints(self.client)
        return PointsStub(self._channel)  # type: ignore[no-untyped-call]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call of `points` carries."""
        key = self._settings.api_key
        return (("api-key", key.get_secret_value()),) if key else ()

    def close(self) -> None:
        """Close what was opened. Closing twice is fine."""
        self._closed = True
        self._channel.close()
        if "client" in self.__dict__:
            self.client.close()

    def call(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, a request that may be repeated; errors become those of the project.

        If a rate limit refuses the request, it is repeated after the time that the server names,
        up to the time-out. The same holds for a collection that another process is making, or whose
        settings it changes. Raises RateLimitedError after the time-out.
        """
        deadline = time.monotonic() + self._settings.timeout_s
        while True:
            try:
                with self._translated():
                    return work()
            except (RateLimitedError, _PassingError) as error:
                if time.monotonic() + error.retry_after_s > deadline:
                    raise
                _log.debug("sending it again in %g s: %s", error.retry_after_s, for_log(error))
                time.sleep(error.retry_after_s)

    def _find_transport(self) -> Transport:
        if self._settings.transport != "auto":
            return self._settings.transport
        place = (self._settings.url, self._settings.grpc_port)
        if time.monotonic() - _rest_since.get(place, -math.inf) < REST_FOR_S:
            return "rest"
        probe_s = min(self._settings.timeout_s, PROBE_S)
        try:
            self._probe_grpc(probe_s)
        except IndexUnavailableError:
            by_rest = self._rest_answers()
            try:  # a busy server answers later, on each port that is not blocked
                self._probe_grpc(probe_s if by_rest else self._settings.timeout_s)
            except IndexUnavailableError:
                if not by_rest:
                    raise
                self._note_rest(place)
                return "rest"
        _rest_since.pop(place, None)
        return "grpc"

    def _note_rest(self, place: tuple[str | None, int]) -> None:
        if place not in _rest_since:
            _log.warning(
                "the gRPC port %s of Qdrant on %s does not answer; REST alone is used, which "
                "is slower: open that port, or set P4R_QDRANT__TRANSPORT=rest",
                place[1],
                place[0],
            )
        _rest_since[place] = time.monotonic()

    def _probe_grpc(self, seconds: float) -> None:
        """Raise IndexUnavailableError unless Qdrant listens on the gRPC port.

        It may refuse the key.
        """
        stub = QdrantStub(self._channel)  # type: ignore[no-untyped-call]
        with self._translated():
            try:
                stub.HealthCheck(HealthCheckRequest(), timeout=seconds, metadata=self.metadata)
            except grpc.RpcError as error:
                if not isinstance(error, grpc.Call) or error.code().name in _NO_GRPC:
                    raise

    def _rest_answers(self) -> bool:
        settings = self._settings.model_copy(
            update={"timeout_s": min(self._settings.timeout_s, PROBE_S)}
        )
        client = _client(settings, "rest")
        with suppress(ResponseHandlingException):
            with suppress(UnexpectedResponse):  # such as a wrong key, which is reported later
                client.http.service_api.root()
            client.close()
            return True
        client.close()
        return False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the error of qdrant-client as one of this project, in one sentence."""
        if self._closed:
            raise IndexUnavailableError(f"{self._location} is closed; open the index again")
        try:
            yield
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            details = (error.details() or "") if isinstance(error, grpc.Call) else str(error)
            raise self._error(code, details, _retry_after(error)) from None
        except ResourceExhaustedResponse as error:
            raise self._error("RESOURCE_EXHAUSTED", str(error), error.retry_after_s) from None
        except UnexpectedResponse as error:
            code = _OF_STATUS.get(error.status_code or 0, str(error.status_code))
            wait_s = DEFAULT_WAIT_S if error.status_code == 429 else None
            raise self._error(code, _sentence(error.content), wait_s) from None
        except QdrantException as error:
            if (date := _NO_INTEGER.search(str(error))) is None:
                raise self._foreign(error) from None
            wait_s = retry_after_s({"retry-after": date[1]}) or DEFAULT_WAIT_S
            raise self._error("RESOURCE_EXHAUSTED", str(error), wait_s) from None
        except ResponseHandlingException as error:
            timed_out = "timed out" in str(error)
            raise self._error(
                "DEADLINE_EXCEEDED" if timed_out else "UNAVAILABLE", str(error), over="REST"
            ) from None
        except P4RError:
            raise
        except Exception as error:  # qdrant-client asserts the form of an answer
            raise self._foreign(error) from None

    def _foreign(self, error: Exception) -> IndexUnavailableError:
        _log.debug("qdrant-client failed", exc_info=error)
        return IndexUnavailableError(
            f"{self._settings.url} does not answer as Qdrant does ({type(error).__name__}); "
            "check P4R_QDRANT__URL, and that the server's version fits qdrant-client's"
        )

    def _error(
        self, code: str, details: str, wait_s: float | None = None, over: str = ""
    ) -> Exception:
        url = self._settings.url
        _log.debug("Qdrant answered %s: %s", code, details)
        details = " ".join(details.split())[:300]
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return AuthenticationError(
                f"Qdrant on {url} refused the API key for this; check P4R_QDRANT__API_KEY"
            )
        if "No space left" in details or "disk is full" in details.lower():
            return StorageFullError(f"Qdrant on {url} has no disk space left; free some, run again")
        if code == "DEADLINE_EXCEEDED":
            return IndexUnavailableError(
                f"Qdrant on {url} did not answer within {self._settings.timeout_s:g} s "
                "(P4R_QDRANT__TIMEOUT_S)"
            )
        if code == "UNAVAILABLE":
            port = "its REST port" if over else f"gRPC port {self._settings.grpc_port}"
            return IndexUnavailableError(
                f"Qdrant cannot be reached on {url} ({port}); "
                "check that it runs and P4R_QDRANT__URL and P4R_QDRANT__GRPC_PORT"
            )
        if code == "NOT_FOUND":
            return IndexMismatchError(f"{self._location} is gone; make it again with `p4r index`")
        if wait_s is not None and "split your request" not in details:
            return RateLimitedError(
                f"Qdrant on {url} takes the next request in {wait_s:g} s only (its rate limit), "
                f"which is beyond the {self._settings.timeout_s:g} s of P4R_QDRANT__TIMEOUT_S: "
                "run it again later, or raise one of them",
                wait_s,
            )
        if code in _REFUSED:
            return IndexRefusedError(
                f"Qdrant on {url} refuses a request for {self._location}: {details} (its strict "
                "mode or a quota; change it there)"
            )
        kind = _PassingError if any(one in details for one in PASSING) else IndexUnavailableError
        return kind(f"Qdrant on {url} failed ({code}): {details}")


def _retry_after(error: grpc.RpcError) -> float | None:
    """Seconds to wait for a rate limit; None if the answer is about something else."""
    if not isinstance(error, grpc.Call) or error.code().name != "RESOURCE_EXHAUSTED":
        return None
    trailing = {name: str(value) for name, value in error.trailing_metadata() or ()}
    if "retry-after" in trailing or "rate limit" in (error.details() or "").lower():
        return retry_after_s(trailing) or DEFAULT_WAIT_S
    return None  # a message that is too large


def _sentence(content: bytes) -> str:
    """The message of an answer of the REST API, without its JSON."""
    text = content.decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["status"]["error"])
    return text


def _client(settings: QdrantSettings, transport: Transport) -> QdrantRemote:
    with warnings.catch_warnings():
        # The settings have already refused a key that would travel unprotected.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return QdrantRemote(
            url=settings.url,
            grpc_port=settings.grpc_port,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            prefer_grpc=transport == "grpc",
            timeout=math.ceil(settings.timeout_s),
            check_compatibility=False,
            grpc_options=_channel_options(settings),
            trust_env=not _is_plain(settings),
            verify=not _is_plain(settings),  # reading certificates for nothing takes 20 ms
        )


def _is_plain(settings: QdrantSettings) -> bool:
    return (settings.url or "").lower().startswith("http:")


def _channel_options(settings: QdrantSettings) -> dict[str, Any]:
    # What is not encrypted goes where the settings say and through no proxy of the environment.
    return _CHANNEL | ({"grpc.enable_http_proxy": 0} if _is_plain(settings) else {})


def channel(settings: QdrantSettings) -> grpc.Channel:
    """A separate gRPC channel to the server."""
    parts = urlsplit(settings.url or "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    target = f"{host}:{settings.grpc_port}"
    options = list(_channel_options(settings).items())
    if parts.scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(target, options)
