"""Payload filters, in one small notation that both engines understand.

    {"language": "en", "stock": {"gt": 0}, "genre": ["crime", "noir"], "tenant": {"not": "b"}}

A value must be equal; a list means any of these; `gt`, `gte`, `lt`, `lte` compare numbers; `not`
excludes a value or any of a list. All conditions must hold. On a field that holds a list, one
matching element is enough, as in Qdrant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p4r_qdrant.errors import InputError

_FIELD = re.compile(r"[\w-]+(\[\d*\])*(\.[\w-]+(\[\d*\])*)*")
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


def parse(filter: Mapping[str, Any] | None) -> list[Condition]:  # noqa: A002
    """The conditions of a filter; raises InputError naming the field that is wrong."""
    conditions = []
    if filter is not None and not isinstance(filter, Mapping):
        raise InputError(f"a filter names fields and what they must hold; {filter!r} does not")
    for field, wanted in (filter or {}).items():
        if not isinstance(field, str) or not _FIELD.fullmatch(field):
            raise InputError(
                f"filter on {field!r}: a field to filter on has a name of letters, digits, _ and -"
            )
        if not isinstance(wanted, Mapping):
            conditions.append(Condition(field, _values(field, wanted)))
            continue
        unknown = set(wanted) - {*RANGE, "not"}
        if unknown or not wanted:
            raise InputError(
                f"filter on {field!r}: {sorted(map(str, unknown)) or 'nothing'} given, known "
                "are gt, gte, lt, lte and not"
            )
        if "not" in wanted:
            conditions.append(Condition(field, _values(field, wanted["not"]), negated=True))
        bounds: dict[str, Any] = {
            name: _number(field, wanted[name]) for name in RANGE if name in wanted
        }
        if bounds:
            conditions.append(Condition(field, **bounds))
    return conditions


def _values(field: str, wanted: Any) -> tuple[Scalar, ...]:
    values = tuple(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else (wanted,)
    if not values:
        raise InputError(f"filter on {field!r}: an empty list matches nothing")
    for value in values:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"filter on {field!r}: a number of more than 64 bits matches nothing")
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise InputError(f"filter on {field!r}: {value!r} is not valid Unicode")
        if not isinstance(value, (str, int)):
            raise InputError(
                f"filter on {field!r}: {value!r} is no text, whole number or truth value; "
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
    raise InputError(f"filter on {field!r}: {value!r} is no number")
