"""The answers to the client's requests: their models, the errors, and when to ask again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import ValidationError

from p4r_qdrant.client.calls import Call
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.retry_after import retry_after_s

LONGEST_WAIT_S = 30.0


class ServiceRefusedError(InputError):
    """The service refused a request; `status`, `code` and the message say why."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServiceDownError(P4RError):
    """The service could not be reached or could not answer, after all attempts."""


class AgainError(Exception):
    """The request can be sent again, not before `wait_s` seconds have passed."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def read(call: Call[Any], response: httpx.Response) -> Any:
    """The answer to a call.

    Raises ServiceRefusedError, AgainError, and ServiceDownError where something else answers than
    the service.
    """
    if response.status_code in (429, 500, 502, 503, 504):
        raise AgainError(_problem(response)[1], retry_after_s(response.headers))
    if not response.is_success:
        code, sentence = _problem(response)
        raise ServiceRefusedError(sentence, response.status_code, code)
    try:
        if call.lines:
            return [call.answer.model_validate_json(line) for line in response.iter_lines()]
        return call.answer.model_validate_json(response.content)
    except ValidationError:
        raise ServiceDownError(
            f"{response.url.copy_with(path='/')} does not answer like `p4r serve`; check the URL"
        ) from None


def _problem(response: httpx.Response) -> tuple[str, str]:
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        return "error", f"the service answered {response.status_code}"


def waits(attempts: int) -> Iterator[float]:
    """Least seconds to wait after each attempt but the last."""
    yield from (0.2 * 2**number for number in range(attempts - 1))


def pause_s(error: Exception, left: Iterator[float], url: httpx.URL) -> float:
    """Seconds until the next attempt; `left` are those `waits` that are left.

    Raises ServiceDownError after the last attempt.
    """
    least = next(left, None)
    if least is None:
        why = f"failed: {error if isinstance(error, AgainError) else type(error).__name__}"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            why = "cannot be reached; check the address, and that `p4r serve` runs"
        elif isinstance(error, httpx.TimeoutException):
            why = "did not answer in time; its log says more"
        raise ServiceDownError(f"the service at {url} {why}") from None
    asked = error.wait_s if isinstance(error, AgainError) else 0.0
    return min(LONGEST_WAIT_S, max(least, asked))
