"""The failures of a Qdrant server as errors of this project, in one sentence each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexMismatchError,
    IndexRefusedError,
    IndexUnavailableError,
    P4RError,
    RateLimitedError,
    StorageFullError,
)
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import QdrantSettings

DEFAULT_WAIT_S = 1.0
"""Wait after a status 429 that does not say how long to wait."""

_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
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
_NO_INTEGER = re.compile("not a valid integer: (.*)")
"""How qdrant-client says that Retry-After is a date, or a fraction."""
PASSING = ("0 of 0 read operations failed", "channel closed")
"""Qdrant's messages while it makes a collection, and for a write while its settings change."""
_log = logging.getLogger(__name__)


class PassingError(IndexUnavailableError):
    """What the server does with the collection now is over in a moment."""

    retry_after_s = 0.1


class NodeAwayError(IndexUnavailableError):
    """The server cannot be reached, or does not answer in time: another node may."""


class Failures:
    """Translates the errors of grpc and qdrant-client. location: what is used there, for people."""

    def __init__(self, settings: QdrantSettings, location: str) -> None:
        self._settings = settings
        self._location = location

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the error of qdrant-client as one of this project, in one sentence."""
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
            return NodeAwayError(
                f"Qdrant on {url} did not answer within {self._settings.timeout_s:g} s "
                "(P4R_QDRANT__TIMEOUT_S)"
            )
        if code == "UNAVAILABLE":
            port = "its REST port" if over else f"gRPC port {self._settings.grpc_port}"
            return NodeAwayError(
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
        kind = PassingError if any(one in details for one in PASSING) else IndexUnavailableError
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
