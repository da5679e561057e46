"""Payload filters, in one small notation that both engines understand.

    {"language": "en", "stock": {"gt": 0}, "genre": ["crime", "noir"], "tenant": {"not": "b"}}

A value must be equal; a list matches any of its values; `gt`, `gte`, `lt`, `lte` compare numbers;
`not` excludes a value or all values of a list. All conditions must hold. On a field that holds a
list, one matching element is enough, as in Qdrant.

Fields that can be filtered on are `item_id`, `persona_id`, `category`, `domain` and those that
P4R_INDEX__FIELDS declares. On a server each has a payload index, which strict mode requires. The
condition must fit the type of the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from reprlib import Repr
from typing import Any

from p4r_qdrant.errors import InputError, PersonaError
from p4r_qdrant.index.payload import ITEM_ID, KEYWORDS
from p4r_qdrant.settings.index import FIELD_NAME

MAX_FIELDS = 64
"""Most fields of one filter."""

MAX_VALUES = 10_000
"""Most values in the list of one condition."""

MAX_TEXT = 1000
"""Most characters of a field's name or of a value."""

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 2, 2, 3, 3
short = _SHORT.repr
"""How a value is shown in a message."""

RANGE = ("gt", "gte", "lt", "lte")
Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """One field's condition: `any_of` (excluded where `negated`), or a numeric range."""

    field: str
    any_of: tuple[Scalar, ...] = ()
    negated: bool = False
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    @property
    def is_range(self) -> bool:
        """Whether this is a numeric range rather than a set of values."""
        return not self.any_of


def from_json(text: str | None, where: str) -> dict[str, Any] | None:
    """A filter that `where` gives as JSON, not checked yet. Raises InputError for anything else."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f'{where}: send a JSON object, such as {{"language": "en"}}')
    return value


def parse(filter: Mapping[str, Any] | None) -> list[Condition]:  # noqa: A002
    """The conditions of a filter; raises InputError naming the field that is wrong."""
    conditions = []
    if filter is not None and not isinstance(filter, Mapping):
        raise InputError(f"a filter names fields and what they must hold; {short(filter)} does not")
    if filter and len(filter) > MAX_FIELDS:
        raise InputError(f"a filter may name {MAX_FIELDS} fields, this one names {len(filter)}")
    for field, wanted in (filter or {}).items():
        if not isinstance(field, str) or _is_long(field) or not FIELD_NAME.fullmatch(field):
            raise InputError(
                f"filter on {short(field)}: a field to filter on has a name of letters, digits, _ "
                f"and -, of {MAX_TEXT} characters at most"
            )
        if not isinstance(wanted, Mapping):
            conditions.append(Condition(field, _values(field, wanted)))
            continue
        unknown = set(wanted) - {*RANGE, "not"}
        if unknown or not wanted:
            given = short(sorted(map(str, unknown))) if unknown else "nothing"
            raise InputError(
                f"filter on {field!r}: {given} given, known are gt, gte, lt, lte and not"
            )
        if "not" in wanted:
            conditions.append(Condition(field, _values(field, wanted["not"]), negated=True))
        bounds: dict[str, Any] = {
            name: _number(field, wanted[name]) for name in RANGE if name in wanted
        }
        if bounds:
            conditions.append(Condition(field, **bounds))
    return conditions


def indexed(conditions: Sequence[Condition], fields: Mapping[str, str]) -> list[Condition]:
    """The conditions, for the declared `fields` (name -> type).

    Raises InputError if a field is not declared, or with another type.
    """
    return [_indexed(one, fields) for one in conditions]


def _indexed(one: Condition, fields: Mapping[str, str]) -> Condition:
    fitting = _types_for(one)
    kind = fields.get(one.field)
    if kind in fitting:
        return one
    if kind == "float" and "integer" in fitting and len(one.any_of) == 1 and not one.negated:
        return replace(one, any_of=(), gte=float(one.any_of[0]), lte=float(one.any_of[0]))
    advice = f"declare it with P4R_INDEX__FIELDS={one.field}={fitting[0]} and run `p4r index`"
    if kind is None or kind == "text":
        raise InputError(
            f"filter on {one.field!r}: this field is not declared; "
            f"{advice} (declared are {described(fields)})"
        )
    if kind == "float" and "integer" in fitting:
        advice = "compare fractions with gte and lte"
    raise InputError(
        f"filter on {one.field!r}: the field is declared as {kind}, which {_said(one)} cannot "
        f"match; {advice}"
    )


def _types_for(one: Condition) -> tuple[str, ...]:
    """The types of payload indexes that answer a condition, the likeliest first."""
    if one.is_range:
        return "float", "integer"
    first = one.any_of[0]
    if isinstance(first, bool):
        return ("bool",)
    return ("integer",) if isinstance(first, int) else ("keyword", "uuid")


def _said(one: Condition) -> str:
    return "a comparison" if one.is_range else f"the value {one.any_of[0]!r}"


def described(fields: Mapping[str, str]) -> str:
    """The fields that can be filtered on, for people."""
    usable = sorted(field for field, kind in fields.items() if kind != "text")
    return ", ".join(
        field if fields[field] == "keyword" else f"{field} ({fields[field]})" for field in usable
    )


def declared(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that settings have declared, among those that can be filtered on."""
    return {
        one: kind
        for one, kind in fields.items()
        if kind in _FITS and one not in (ITEM_ID, *KEYWORDS)
    }


_FITS = {
    "keyword": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
}


def check_types(item_id: str, payload: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Raise PersonaError if a field of an item has a value of another type than is declared."""
    for field, kind in fields.items():
        fits = _FITS.get(kind)
        if fits is None:
            continue
        for value in values_at(payload, field):
            if value is not None and not fits(value):
                raise PersonaError(
                    f"the field {field!r} of item {item_id!r} is declared as {kind} "
                    f"(P4R_INDEX__FIELDS), but holds {str(value)[:40]!r}"
                )


def values_at(payload: Mapping[str, Any], field: str) -> list[Any]:
    """The values of a field such as `offers[].stock` or `flags[0]`, as Qdrant reads it."""
    return _values_at(payload, field.split("."))


def _values_at(value: Any, path: list[str]) -> list[Any]:
    if not path:
        return value if isinstance(value, list) else [value]
    name, *brackets = path[0].split("[")
    found = [value[name]] if isinstance(value, Mapping) and name in value else []
    for bracket in brackets:  # "]" or "0]"
        lists = [one for one in found if isinstance(one, list)]
        place = slice(None) if bracket == "]" else slice(int(bracket[:-1]), int(bracket[:-1]) + 1)
        found = [element for one in lists for element in one[place]]
    return [inner for one in found for inner in _values_at(one, path[1:])]


def _values(field: str, wanted: Any) -> tuple[Scalar, ...]:
    values = tuple(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else (wanted,)
    if not values:
        raise InputError(f"filter on {field!r}: an empty list matches nothing")
    if len(values) > MAX_VALUES:
        raise InputError(
            f"filter on {field!r}: a list may have {MAX_VALUES} values, this one has {len(values)}"
        )
    for value in values:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"filter on {field!r}: a number of more than 64 bits matches nothing")
        if isinstance(value, str) and _is_long(value):
            raise InputError(
                f"filter on {field!r}: a value may have {MAX_TEXT} characters, this one has "
                f"{len(value)}"
            )
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise InputError(f"filter on {field!r}: {value!r} is not valid Unicode")
        if not isinstance(value, (str, int)):
            raise InputError(
                f"filter on {field!r}: {short(value)} is no text, whole number or truth value; "
                "compare fractions with gte and lte"
            )
    if len({type(value) for value in values}) > 1 or (
        isinstance(values[0], bool) and len(values) > 1
    ):
        raise InputError(
            f"filter on {field!r}: the values of a list must be all texts or all numbers"
        )
    return values


def _number(field: str, value: Any) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond the largest fraction
        pass
    raise InputError(f"filter on {field!r}: {short(value)} is no number")


def _is_long(text: str) -> bool:
    return len(text) > MAX_TEXT
