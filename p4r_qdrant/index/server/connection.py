"""The connection to a Qdrant server: its channels, and its failures as our errors."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexUnavailableError,
    StorageFullError,
)
from p4r_qdrant.settings import QdrantSettings

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
_log = logging.getLogger(__name__)


class Connection:
    """A client of the server that the settings name; `location` is what is used there, for people.

    Connects when it is first used.
    """

    def __init__(self, settings: QdrantSettings, location: str) -> None:
        self._settings = settings
        self._location = location
        self._closed = False
        self.client = _connect(settings)

    def close(self) -> None:
        """Close the client. Closing twice is fine."""
        self._closed = True
        self.client.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Whatever qdrant-client raises, as one of our errors in one sentence."""
        if self._closed:
            raise IndexUnavailableError(f"{self._location} is closed; open the index again")
        try:
            yield
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            details = (error.details() or "") if isinstance(error, grpc.Call) else str(error)
            raise self._error(code, details) from None
        except UnexpectedResponse as error:
            code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}.get(
                error.status_code or 0, str(error.status_code)
            )
            raise self._error(code, error.content.decode(errors="replace")) from None
        except ResponseHandlingException as error:
            timed_out = "timed out" in str(error)
            raise self._error(
                "DEADLINE_EXCEEDED" if timed_out else "UNAVAILABLE", str(error)
            ) from None

    def _error(self, code: str, details: str) -> Exception:
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
            return IndexUnavailableError(
                f"Qdrant cannot be reached on {url} (gRPC port {self._settings.grpc_port}); "
                "check that it runs and P4R_QDRANT__URL and P4R_QDRANT__GRPC_PORT"
            )
        if code == "NOT_FOUND":
            return IndexMismatchError(f"{self._location} is gone; make it again with `p4r index`")
        return IndexUnavailableError(f"Qdrant on {url} failed ({code}): {details}")


def _connect(settings: QdrantSettings) -> QdrantClient:
    with warnings.catch_warnings():
        # The settings have already refused a key that would travel unprotected.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return QdrantClient(
            url=settings.url,
            grpc_port=settings.grpc_port,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            prefer_grpc=True,
            timeout=math.ceil(settings.timeout_s),
            check_compatibility=False,
            grpc_options=_channel_options(settings),
            trust_env=not _is_plain(settings),
        )


def _is_plain(settings: QdrantSettings) -> bool:
    return (settings.url or "").lower().startswith("http:")


def _channel_options(settings: QdrantSettings) -> dict[str, Any]:
    # What is not encrypted goes where the settings say and through no proxy of the environment.
    return _CHANNEL | ({"grpc.enable_http_proxy": 0} if _is_plain(settings) else {})


def channel(settings: QdrantSettings) -> grpc.Channel:
    """A gRPC channel of one's own to the server."""
    parts = urlsplit(settings.url or "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    target = f"{host}:{settings.grpc_port}"
    options = list(_channel_options(settings).items())
    if parts.scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(target, options)
