"""One Qdrant server or node of a cluster: its channel, its client, and how it is reached."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

import grpc
from qdrant_client.grpc import HealthCheckRequest, PointsStub, QdrantStub
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote

from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.server.failures import Failures
from p4r_qdrant.index.server.rest import RestPoints
from p4r_qdrant.settings import QdrantSettings

PROBE_S = 2.0
"""Seconds to wait for the gRPC port before REST is tried."""
REST_FOR_S = 60.0
"""Seconds until a gRPC port that did not answer is tried again."""

Transport = Literal["grpc", "rest"]

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
# No answer is compressed: to gzip one takes Qdrant three times as long as to find it.
_CHANNEL = {
    "grpc.service_config": json.dumps(_RETRY),
    "grpc.enable_retries": 1,
    "grpc.max_receive_message_length": -1,
    "grpc.compression_enabled_algorithms_bitset": 1,
    # Unset, a server that was away for minutes is not found again for two more.
    "grpc.max_reconnect_backoff_ms": 1000,
}
_NO_GRPC = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "UNKNOWN", "INTERNAL"})
"""The gRPC codes of a closed port, and of a port on which another program listens."""
_log = logging.getLogger(__name__)
_rest_since: dict[tuple[str | None, int], float] = {}
"""(address, gRPC port) -> when it was last found that only REST answers there."""


class Node:
    """A server at one address. transport: how it is reached; set before the first call."""

    def __init__(self, settings: QdrantSettings, location: str, *, is_alone: bool = True) -> None:
        """settings: with a single address. is_alone: there is no other node to ask instead."""
        self.settings = settings
        self._is_alone = is_alone
        self.transport: Transport = "grpc"
        self._failures = Failures(settings, location)
        self._channel = channel(settings, repeats=is_alone)

    @cached_property
    def client(self) -> QdrantRemote:
        """The client for everything that is not urgent.

        What QdrantClient adds, inference in the client, takes 30 ms to start.
        """
        return _client(self.settings, self.transport, repeats=self._is_alone)

    @cached_property
    def points(self) -> Any:
        """A `PointsStub` for queries: qdrant-client runs every call through Python twice."""
        if self.transport == "rest":
            return RestPoints(self.client)
        return PointsStub(self._channel)  # type: ignore[no-untyped-call]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call of `points` carries."""
        key = self.settings.api_key
        return (("api-key", key.get_secret_value()),) if key else ()

    def close(self) -> None:
        """Close what was opened. Closing twice is fine."""
        self._channel.close()
        if "client" in self.__dict__:
            self.client.close()

    def find_transport(self) -> Transport:
        """How the server can be reached. Raises IndexUnavailableError if neither way answers."""
        if self.settings.transport != "auto":
            return self.settings.transport
        place = (self.settings.url, self.settings.grpc_port)
        if time.monotonic() - _rest_since.get(place, -math.inf) < REST_FOR_S:
            return "rest"
        probe_s = min(self.settings.timeout_s, PROBE_S)
        try:
            self._probe_grpc(probe_s)
        except IndexUnavailableError:
            by_rest = self._rest_answers()
            try:  # a busy server answers later, on each port that is not blocked
                self._probe_grpc(probe_s if by_rest else self.settings.timeout_s)
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
        with self._failures.translated():
            try:
                stub.HealthCheck(HealthCheckRequest(), timeout=seconds, metadata=self.metadata)
            except grpc.RpcError as error:
                if not isinstance(error, grpc.Call) or error.code().name in _NO_GRPC:
                    raise

    def _rest_answers(self) -> bool:
        settings = self.settings.model_copy(
            update={"timeout_s": min(self.settings.timeout_s, PROBE_S)}
        )
        client = _client(settings, "rest", repeats=False)
        with suppress(ResponseHandlingException):
            with suppress(UnexpectedResponse):  # such as a wrong key, which is reported later
                client.http.service_api.root()
            client.close()
            return True
        client.close()
        return False


def _client(settings: QdrantSettings, transport: Transport, *, repeats: bool) -> QdrantRemote:
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
            grpc_options=_channel_options(settings, repeats=repeats),
            trust_env=not _is_plain(settings),
            verify=not _is_plain(settings),  # reading certificates for nothing takes 20 ms
            metadata={"accept-encoding": "identity"},
        )


def _is_plain(settings: QdrantSettings) -> bool:
    return (settings.url or "").lower().startswith("http:")


def _channel_options(settings: QdrantSettings, *, repeats: bool) -> dict[str, Any]:
    # What is not encrypted goes where the settings say and through no proxy of the environment.
    options = _CHANNEL | ({"grpc.enable_http_proxy": 0} if _is_plain(settings) else {})
    return options if repeats else options | {"grpc.enable_retries": 0}


def channel(settings: QdrantSettings, *, repeats: bool = True) -> grpc.Channel:
    """A separate gRPC channel to the server. repeats: calls that do not reach it are repeated."""
    parts = urlsplit(settings.url or "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    target = f"{host}:{settings.grpc_port}"
    options = list(_channel_options(settings, repeats=repeats).items())
    if parts.scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(target, options)
