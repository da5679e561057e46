"""Every answer that is no success has one form: `schemas.ErrorBody`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    MissingExtraError,
    P4RError,
    SettingsError,
)
from p4r_qdrant.schemas import ErrorBody

RETRY_AFTER_S = 1
OURS = (
    AuthenticationError,
    IndexLockedError,
    IndexMismatchError,
    MissingExtraError,
    SettingsError,
)
"""InputErrors that are the operator's to put right, not the caller's."""


class ProblemError(Exception):
    """An answer that is no success: status, code for programs, sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def busy(message: str) -> ProblemError:
    """429: there is more work than can be done; come again."""
    return ProblemError(429, "busy", message, {"Retry-After": str(RETRY_AFTER_S)})


def unavailable(message: str) -> ProblemError:
    """503: it cannot be done now; come again."""
    return ProblemError(503, "unavailable", message, {"Retry-After": str(RETRY_AFTER_S)})


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for the OpenAPI document: these and what any route may answer."""
    return {
        status: {"model": ErrorBody, "description": _MEANING[status]}
        for status in sorted({400, 401, 403, 413, 422, *statuses})
    }


_MEANING = {
    400: "The body is no JSON",
    401: "The key is missing or not known",
    403: "The key may not do this",
    404: "There is no such thing",
    409: "It cannot be done in this state",
    413: "The body is too large",
    422: "Something in the request has to be put right",
    429: "Too much work at once: come again after Retry-After seconds",
    503: "It cannot be done now: come again after Retry-After seconds",
}


def install(app: FastAPI) -> None:
    """Give every error of the app its one form."""
    app.add_exception_handler(ProblemError, _of_problem)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(P4RError, _of_ours)


def answer(
    request_id: str, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response; half an emoji in what is quoted does no harm."""
    body = {
        "error": {"code": code, "message": message.encode(errors="replace").decode()},
        "request_id": request_id,
    }
    return JSONResponse(body, status, dict(headers or {}))


def _of_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - that is what it is installed for
    return answer(request.state.request_id, error.status, error.code, str(error), error.headers)


def _of_ours(request: Request, error: Exception) -> JSONResponse:
    """The caller's mistake is 422; what the world or the operator did is 503.

    The sentences of the latter name addresses and folders: they are logged, not sent.
    """
    if isinstance(error, InputError) and not isinstance(error, OURS):
        return answer(request.state.request_id, 422, "invalid", str(error))
    request.state.problem = str(error)
    what = "the index" if isinstance(error, IndexUnavailableError) else "a part of the service"
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    message = f"{what} cannot be used now; the service's log says why"
    return answer(request.state.request_id, 503, "unavailable", message, headers)


def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems: Sequence[Any] = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        message = f"the body is no JSON: {first['ctx']['error']} at byte {first['loc'][-1]}"
        return answer(request.state.request_id, 400, "no_json", message)
    if first["loc"] == ("body",) and first["type"] in ("missing", "model_attributes_type"):
        message = "send a JSON object, with the header Content-Type: application/json"
        return answer(request.state.request_id, 422, "invalid", message)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    # Of the alternatives of one value, the one that got furthest is the one that was meant.
    place = first["loc"][:-1]
    alike = [one for one in problems if one["loc"][: len(place)] == place]
    first = max(alike, key=lambda one: len(one["loc"]))
    where = ".".join(str(part) for part in first["loc"][1:] if not _is_a_type(part))
    message = first["msg"].removeprefix("Value error, ") + more
    sentence = f"{where}: {message}" if where else message
    return answer(request.state.request_id, 422, "invalid", sentence)


def _is_a_type(part: int | str) -> bool:
    """Whether a part of a place names an alternative rather than a field."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part)


def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = {400: "no_json", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(
        error.status_code, "error"
    )
    return answer(
        request.state.request_id, error.status_code, code, str(error.detail), error.headers
    )
