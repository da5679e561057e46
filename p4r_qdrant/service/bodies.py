"""The body of a request: read after the key is checked, parsed within limits, off the event loop.

A small body can cost much: each `[]` of three bytes becomes an object, an error, a place. So what
a body is made of is counted before it is parsed, lists have lengths, and validation ends with the
first element of a list that is wrong.
"""

from __future__ import annotations

import json
import re
import zlib
from email.message import Message
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import ClientDisconnect

from p4r_qdrant.errors import InputError
from p4r_qdrant.schemas.base import LIMIT, Body
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.settings import ServiceSettings

if TYPE_CHECKING:
    from p4r_qdrant.service.state import Service

LARGE = 16 << 10
"""A body of more bytes is parsed on another thread."""

MAX_DEPTH = 64
"""Lists and objects within each other."""

MAX_NAMES = 512
"""Names in one object."""

_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}

_NO_OBJECT = {"type": "missing", "loc": ("body",)}
_SCHEMAS = "#/components/schemas/"

Model = TypeVar("Model", bound=Body)


def body_of(model: type[Model]) -> Any:
    """The dependency of a route that reads, parses and validates its body.

    A dependency and not a parameter of the route: FastAPI reads those before it checks the key.
    """

    async def read(request: Request) -> Model:
        served: Service = request.app.state.service
        if not _is_json(request.headers.get("content-type", "")):
            _refuse(_NO_OBJECT)
        packed = _is_packed(request.headers.get("content-encoding", ""))
        try:
            raw = await request.body()
        except ClientDisconnect:
            raise ProblemError(400, "no_json", "the body ends early") from None
        work = partial(parsed, raw, model, served.backend.settings.service, packed=packed)
        return work() if len(raw) < LARGE and not packed else await served.parse(work)

    return Depends(read)


def parsed(
    raw: bytes, model: type[Model], limits: ServiceSettings, *, packed: bool = False
) -> Model:
    """The body as a model. Raises ProblemError (400, 413), InputError, RequestValidationError.

    packed: whether it is compressed with gzip.
    """
    if packed:
        raw = _unpacked(raw, limits.max_body_bytes)
    value = _loaded(raw, limits.max_body_values)
    if not isinstance(value, dict):
        _refuse(_NO_OBJECT)
    try:
        return model.model_validate(value, context=limits)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        _refuse(*({**one, "loc": ("body", *one["loc"])} for one in problems))


def _is_packed(encoding: str) -> bool:
    """Whether a body is compressed with gzip. Raises ProblemError (415) for other encodings."""
    if encoding.strip().lower() in ("", "identity"):
        return False
    if encoding.strip().lower() in ("gzip", "x-gzip"):
        return True
    raise ProblemError(
        415,
        "encoding",
        f"the Content-Encoding {encoding[:40]!r} is not supported; send gzip, or leave it out",
        {"Accept-Encoding": "gzip"},
    )


def _unpacked(raw: bytes, most_bytes: int) -> bytes:
    """The body without gzip; of a larger one only `most_bytes` are ever unpacked.

    Raises ProblemError (400, 413).
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = stream.decompress(raw, most_bytes + 1)
    except zlib.error:
        raise ProblemError(400, "no_json", "the body is not valid gzip") from None
    if len(text) > most_bytes:
        raise ProblemError(413, "too_large", too_large(most_bytes))
    if not stream.eof or stream.unused_data:
        raise ProblemError(400, "no_json", "the body is not one complete gzip member")
    return text


def too_large(most_bytes: int) -> str:
    """What a caller reads about a body of more bytes."""
    return f"the body has more than {most_bytes} bytes (P4R_SERVICE__MAX_BODY_BYTES); send less"


def _loaded(raw: bytes, most_values: int) -> Any:
    try:
        text = raw.decode()
        check_structure(text, most_values)
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at byte {len(text[: error.pos].encode())}"
    except UnicodeDecodeError as error:
        problem = f"no UTF-8 at byte {error.start}"
    except ValueError:
        problem = "a number has too many digits"
    except RecursionError:
        problem = "it is nested too deep"
    raise ProblemError(400, "no_json", f"the body is not valid JSON: {problem}")


def check_structure(text: str, most_values: int) -> None:
    """Raise ProblemError (413) or InputError for JSON with too many values, or nested too deep.

    Takes a time that grows with the length, whatever the text is, and makes no object of it.
    """
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    bare = "".join(unescaped.split('"')[::2])  # what stands outside of strings
    if bare.count(",") + bare.count("[") + bare.count("{") > most_values:
        raise ProblemError(
            413,
            "too_large",
            f"the body has more than {most_values} values (P4R_SERVICE__MAX_BODY_VALUES); send "
            "less in one request",
        )
    if bare.count(":") > MAX_NAMES * bare.count("{"):  # one of the objects, whichever it is
        raise InputError(f"an object in the body has more than {MAX_NAMES} names")
    brackets = _NO_BRACKETS.sub("", bare)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise InputError(f"the body is nested deeper than {MAX_DEPTH} levels; make it flatter")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise InputError(
            f"an object in the body has {len(pairs)} names; an object may have {MAX_NAMES}"
        )
    return dict(pairs)


def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    return message.get_content_maintype() == "application" and (
        message.get_content_subtype() == "json" or message.get_content_subtype().endswith("+json")
    )


def _refuse(*problems: Any) -> NoReturn:
    raise RequestValidationError(problems)


def documented(model: type[Body]) -> dict[str, Any]:
    """What a route says of its body in the OpenAPI document."""
    reference = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    content = {"application/json": {"schema": reference}}
    return {"requestBody": {"required": True, "content": content}}


def schemas(limits: ServiceSettings, *models: type[Body]) -> dict[str, Any]:
    """The schemas of bodies for the OpenAPI document, with the limits that the settings name."""
    template = f"{_SCHEMAS}{{model}}"
    asked: Any = [(model, "validation") for model in models]
    _, found = models_json_schema(asked, ref_template=template)
    parts: list[Any] = [found["$defs"]]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if LIMIT in part:
                part["maxItems"] = getattr(limits, part.pop(LIMIT))
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return dict(found["$defs"])
