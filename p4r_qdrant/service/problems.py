"""Errors of the service as HTTP answers, all in one form: `schemas.ErrorBody`."""

from __future__ import annotations

import math
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
    IndexRefusedError,
    IndexUnavailableError,
    InputError,
    MissingExtraError,
    P4RError,
    RateLimitedError,
    SettingsError,
    for_log,
)
from p4r_qdrant.schemas.base import ErrorBody

RETRY_AFTER_S = 1
COMMON_RERANK = ("/rerank", "/v2/rerank")
"""The routes of the protocol that others share; clients of Jina read `detail` of an error."""
OURS = (
    AuthenticationError,
    IndexLockedError,
    IndexMismatchError,
    MissingExtraError,
    SettingsError,
)
"""InputErrors that the operator has to fix, not the caller."""


class ProblemError(Exception):
    """An error answer: HTTP status, code for programs, message for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def busy(message: str) -> ProblemError:
    """429: too much work at once; try again later."""
    return ProblemError(429, "busy", message, {"Retry-After": str(RETRY_AFTER_S)})


def unavailable(message: str) -> ProblemError:
    """503: not possible now; try again later."""
    return ProblemError(503, "unavailable", message, {"Retry-After": str(RETRY_AFTER_S)})


def unknown_tenant() -> ProblemError:
    """404: the same answer whether there is no such tenant, or the key is another tenant's."""
    return ProblemError(404, "unknown_tenant", "there is no such tenant for this key")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for the OpenAPI document: `statuses`, and those of every route.

    A route for which Qdrant can be away (503) can also be refused by it (502).
    """
    of_qdrant = {502} if 503 in statuses else set[int]()
    return {
        status: {"model": ErrorBody, "description": _MEANING[status]}
        for status in sorted({400, 401, 403, 408, 413, 415, 422, *statuses} | of_qdrant)
    }


_MEANING = {
    400: "The body is not valid JSON",
    401: "The key is missing or unknown",
    403: "The key does not allow this",
    404: "Not found",
    409: "Not possible in this state",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body has a Content-Encoding other than gzip",
    422: "The request is invalid; the message says what to change",
    429: "Too much work at once; try again after Retry-After seconds",
    502: "Qdrant refuses the request: its strict mode or a quota forbids it",
    503: "Not possible now; try again after Retry-After seconds",
}


def install(app: FastAPI) -> None:
    """Answer every error of the app in this form."""
    app.add_exception_handler(ProblemError, _of_problem)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(P4RError, _of_ours)


def answer(request_id: str, problem: ProblemError, *, with_detail: bool = False) -> JSONResponse:
    """The response. Lone surrogates in a quoted text are replaced.

    with_detail: the message is in `detail` as well.
    """
    message = str(problem).encode(errors="replace").decode()
    body = {"error": {"code": problem.code, "message": message}, "request_id": request_id}
    detail = {"detail": message} if with_detail else {}
    return JSONResponse(body | detail, problem.status, problem.headers)


def _of_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - it is installed for these
    is_common = getattr(request.scope.get("route"), "path", "") in COMMON_RERANK
    return answer(request.state.request_id, error, with_detail=is_common)


def _of_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, P4RError)  # noqa: S101 - it is installed for these
    return _of_problem(request, of_ours(request, error))


def of_ours(request: Request, error: P4RError) -> ProblemError:
    """422 for a mistake of the caller, 502 where Qdrant refuses a request, else 503.

    The messages of the latter name addresses and folders, so they are logged and not sent.
    """
    if isinstance(error, InputError) and not isinstance(error, OURS):
        return ProblemError(422, "invalid", str(error))
    request.state.problem = for_log(error)
    if isinstance(error, IndexRefusedError):
        message = "Qdrant refuses this request; the service's log says why"
        return ProblemError(502, "refused", message)
    wait_s = error.retry_after_s if isinstance(error, RateLimitedError) else RETRY_AFTER_S
    what = "the index" if isinstance(error, IndexUnavailableError) else "a part of the service"
    headers = {"Retry-After": str(math.ceil(wait_s))}
    message = f"{what} is not available now; the service's log says why"
    return ProblemError(503, "unavailable", message, headers)


def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems: Sequence[Any] = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        message = f"the body is not valid JSON: {first['ctx']['error']} at byte {first['loc'][-1]}"
        return _of_problem(request, ProblemError(400, "no_json", message))
    if first["loc"] == ("body",) and first["type"] in ("missing", "model_attributes_type"):
        message = "send a JSON object, with the header Content-Type: application/json"
        return _of_problem(request, ProblemError(422, "invalid", message))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    # Of several alternatives for a value, the one with the longest path was meant.
    place = first["loc"][:-1]
    alike = [one for one in problems if one["loc"][: len(place)] == place]
    first = max(alike, key=lambda one: len(one["loc"]))
    where = ".".join(str(part) for part in first["loc"][1:] if not _is_a_type(part))
    message = first["msg"].removeprefix("Value error, ") + more
    sentence = f"{where}: {message}" if where else message
    return _of_problem(request, ProblemError(422, "invalid", sentence))


def _is_a_type(part: int | str) -> bool:
    """Whether a part of a location names an alternative rather than a field."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part)


_CODES = {
    400: "no_json",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
}


def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = _CODES.get(error.status_code, "error")
    problem = ProblemError(error.status_code, code, str(error.detail), error.headers)
    return _of_problem(request, problem)
