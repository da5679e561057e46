"""Read JSON from a model's answer: tolerant of the wrapping, strict about the content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jsonschema

from p4r_qdrant.records import clean_text

THOUGHT_MARK = re.compile(
    r"[<\[◁⟨【][^<>\[\]◁▷⟨⟩【】\"\n]{0,40}?"
    r"(?:think|thought|reason|reflect|analysis|scratch)"
    r"[^<>\[\]◁▷⟨⟩【】\"\n]{0,40}[>\]▷⟩】]",
    re.I,
)
"""A mark at the begin or end of a thought, in any brackets."""
_CLOSING = re.compile(r"/|end|close", re.I)
_LEXEME = re.compile(
    r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)'  # a string, left alone; one without an end too
    r"|,(?=\s*[}\]])"  # a comma before a closing bracket
    r"|\b(?:None|True|False)\b"
    r"|//[^\n]*|/\*.*?\*/"
    r"|[\u201c\u201d\u201e]"  # quotation marks of a word processor
    r"|(?<=[{\[,:\s])'[^'\"\\\n]*'(?=\s*[:,}\]])",  # a text in Python's quotes
    re.S,
)
_REPAIRED = {"None": "null", "True": "true", "False": "false"}
_REPAIRED |= {",": " "} | dict.fromkeys("\u201c\u201d\u201e", '"')
"""Each replacement is as long as the original, so that places in the text stay the same."""
_STARTS = 256
"""The last places where an object may begin that are tried; a page of braces would take minutes."""
_REPAIRS = 64, 200_000
"""The last of these places at which a broken object is repaired, and characters of it."""
_DEPTH = 3
"""How deep in other objects an answer is looked for."""


class _Found(NamedTuple):
    value: dict[str, Any]
    start: int
    end: int


def parse_answer(
    text: str, schema: Mapping[str, Any] | None = None, *, at_end: bool = False
) -> dict[str, Any]:
    """The JSON object in a model's answer: whole, in a code fence, or with prose around it.

    After a thought, whatever its marks, the last object counts that fits the schema; if none fits,
    the last one. An object may stand inside another one (of a tool call, say), also as text.

    Accepts trailing commas, comments, Python's None, True, False and quotes, the quotation marks of
    word processors, and raw line breaks in strings. Control
    characters and lone surrogates are removed from all texts.

    at_end: for a thought without an answer: only an object counts that ends the text.
    Raises ValueError with one sentence.
    """
    text = _unquoted(text.strip().removeprefix("\ufeff"))
    if not text:
        raise ValueError("the answer was empty")
    found = _objects_in(text)
    if not found or (at_end and any(map(str.isalnum, text[found[-1].end :]))):
        raise ValueError("the answer was not a JSON object")
    found = _after_thought(text, found)
    if not found:
        raise ValueError("the answer was empty after its thought")
    if schema is None:
        return _cleaned(found[-1].value)

    def fits(value: dict[str, Any]) -> bool:
        return schema_problem(value, schema) is None and not _is_pattern(value)

    fitting = (_fitting(_cleaned(one.value), fits) for one in reversed(found))
    value: dict[str, Any] | None = next((one for one in fitting if one is not None), None)
    return value if value is not None else _cleaned(found[-1].value)


def _unquoted(text: str) -> str:
    """The text in an answer that is one JSON string."""
    try:
        inner = json.loads(text) if text.startswith('"') else text
    except ValueError:
        return text
    return inner.strip() if isinstance(inner, str) else text


def _objects_in(text: str) -> list[_Found]:
    """The JSON objects in a text that are not inside one another, in order."""
    places = [match.start() for match in re.finditer("{", text)]
    repaired_from = places[-_REPAIRS[0] :][:1]
    found: list[_Found] = []
    for start in [*places[:1], *places[1:][-_STARTS:]]:
        if found and start < found[-1].end:
            continue
        one = _object_at(text, start)
        if one is None and start >= repaired_from[0]:
            repaired = _LEXEME.sub(_repair, text[start : start + _REPAIRS[1]])
            if (inner := _object_at(repaired, 0)) is not None:
                one = _Found(inner.value, start, start + inner.end)
        if one is not None:
            found.append(one)
    return found


def _object_at(text: str, start: int) -> _Found | None:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return _Found(value, start, end)


def _repair(lexeme: re.Match[str]) -> str:
    found = lexeme[0]
    if found.startswith("/"):  # a comment
        return " " * len(found)
    if found.startswith("'"):
        return f'"{found[1:-1]}"'
    return _REPAIRED.get(found, found)


def _after_thought(text: str, found: list[_Found]) -> list[_Found]:
    """The objects after the last end of a thought; marks inside an object do not count."""
    starts = [*(one.start for one in found[1:]), len(text)]
    for count, (one, start) in enumerate(zip(reversed(found), reversed(starts), strict=True)):
        if _ends_thought(text[one.end : start]):
            return found[len(found) - count :]
    return found


def thought_end(text: str) -> int:
    """The characters of a plain text up to the end of its thought; all of it without an end."""
    end, is_open = 0, False
    for mark in THOUGHT_MARK.finditer(text):
        is_open = _CLOSING.search(mark[0]) is None
        end = mark.end()
    return len(text) if is_open else end


def _ends_thought(text: str) -> bool:
    """Whether a text closes a thought that it has not opened."""
    opened = 0
    for mark in THOUGHT_MARK.findall(text):
        opened += -1 if _CLOSING.search(mark) else 1
        if opened < 0:
            return True
    return False


def _fitting(value: Any, fits: Callable[[dict[str, Any]], bool], depth: int = _DEPTH) -> Any:
    """The object that fits: the value itself, or the last one inside it; None if there is none."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        found = _object_at(value, value.index("{"))
        value = found.value if found is not None else None
    if isinstance(value, dict):
        if fits(value):
            return value
        value = list(value.values())
    if not isinstance(value, list) or not depth:
        return None
    inside = (_fitting(one, fits, depth - 1) for one in reversed(value))
    return next((one for one in inside if one is not None), None)


def _is_pattern(value: Any) -> bool:
    """Whether dots stand for all texts, as where a model repeats the form that it was asked for."""
    if isinstance(value, str):
        return value != "" and not value.strip(".\u2026 ")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and all(map(_is_pattern, inner))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


_DECODER = json.JSONDecoder(strict=False, parse_constant=_finite, parse_float=_finite)


def _cleaned(value: dict[str, Any]) -> dict[str, Any]:
    """The object with all its texts cleaned."""
    return {clean_text(name): _clean(one) for name, one in value.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return _cleaned(value) if isinstance(value, dict) else value


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
