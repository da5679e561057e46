"""Read JSON from a model's answer: tolerant of the wrapping, strict about the content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jsonschema

from p4r_qdrant.records import clean_text

_THOUGHT = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>", re.S)
_LEXEME = re.compile(
    r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)'  # a string, left alone; one without an end too
    r"|,(?=\s*[}\]])"  # a comma before a closing bracket
    r"|\b(?:None|True|False)\b",
    re.S,
)
_REPAIRED = {",": "", "None": "null", "True": "true", "False": "false"}
_STARTS = 64
"""Places where an object may begin that are tried; a page of braces would take minutes."""


def parse_answer(text: str) -> dict[str, Any]:
    """The JSON object in a model's answer: whole, in a code fence, or with prose around it.

    Accepts reasoning before it (`<think>`), trailing commas, Python's None, True and False, and
    raw line breaks in strings. Of several objects the longest one counts. Control characters and
    lone surrogates are removed from all texts. Raises ValueError with one sentence.
    """
    text = _THOUGHT.sub("", text).strip().removeprefix("\ufeff")
    if not text:
        raise ValueError("the answer was empty")
    found = _objects_in(text)
    if not found or found[0][0] < len(text):  # the rest is prose, or part of a broken object
        found += _objects_in(_LEXEME.sub(_repair, text))
    if not found:
        raise ValueError("the answer was not a JSON object")
    value: dict[str, Any] = _clean(max(found, key=lambda one: one[0])[1])
    return value


def _objects_in(text: str) -> list[tuple[int, dict[str, Any]]]:
    """(length, object) of the JSON objects in a text that are not inside one another."""
    found, place = [], 0
    for _ in range(_STARTS):
        start = text.find("{", place)
        if start < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
        else:
            found.append((end - start, value))
            place = end
    return found


def _repair(lexeme: re.Match[str]) -> str:
    return _REPAIRED.get(lexeme[0], lexeme[0])


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


_DECODER = json.JSONDecoder(strict=False, parse_constant=_finite, parse_float=_finite)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if isinstance(value, dict):
        return {clean_text(name): _clean(one) for name, one in value.items()}
    return value


OFF_SCHEMA = "it does not fit the schema at"


_CHECKED_ELSEWHERE = frozenset({"minItems", "maxItems", "enum"})


def schema_problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What does not fit the schema, in one sentence that names the place; None if all fits.

    Counts and enumerations are not checked here: the request's own check does that, more
    leniently ("[r1]" for "R1") and with a clearer sentence.
    """
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    error = jsonschema.exceptions.best_match(
        one for one in errors if one.validator not in _CHECKED_ELSEWHERE
    )
    return None if error is None else f"{OFF_SCHEMA} {error.json_path}: {shortened(error.message)}"


def shortened(text: str, characters: int = 300) -> str:
    """A text on one line, cut after `characters`."""
    text = " ".join(clean_text(text).split())
    return text if len(text) <= characters else f"{text[:characters]} ..."
