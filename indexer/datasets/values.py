"""Convert the values of published data sets.

A missing value (null, empty, another type) becomes an empty text, an empty list or None. Only a
missing time stamp is an error.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from indexer.datasets.dates import is_compact, read_date
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import clean_text

SECONDS_END = 100_000_000_000
"""Time stamps from here on are milliseconds (or finer): in seconds this is the year 5138."""

_LATEST = SECONDS_END * 1_000_000_000
_DIGITS = re.compile(r"-?\d{1,20}(\.\d{1,20})?")
_NEVER = frozenset({253402214400, 253402300799})
"""The year 9999, which means "never"; as milliseconds it would be 1978."""
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_PRICE = re.compile(
    r"(?:from\s)?\s*(?:[a-z]{2,3}\s?)?[^\w\s.,-]?\s?"
    r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,15}(?:\.\d+)?)(?:\s*[-\u2013].*)?",
    re.IGNORECASE | re.DOTALL,
)


def seconds(value: Any) -> int:
    """Whole seconds since 1970, rounded down.

    Accepts seconds, milli-, micro- or nanoseconds (recognised by their size; numbers or digits),
    ISO 8601, and what `read_date` reads. Times without a zone are UTC.
    Raises: ValueError for anything else.
    """
    if isinstance(value, int) and is_compact(str(value)):
        value = str(value)
    if isinstance(value, str) and value.strip():
        value = _from_text(value.strip())
    if isinstance(value, datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
        return math.floor(zoned.replace(microsecond=0).timestamp())  # timestamp() would round
    if isinstance(value, date):
        return seconds(datetime.combine(value, time()))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(_no_time(value))
    if not -_LATEST < value < _LATEST or value in _NEVER:  # NaN too
        raise ValueError(_no_time(value))
    size: float = value
    while abs(size) >= SECONDS_END:
        size = size // 1000
    return math.floor(size)


def _from_text(value: str) -> datetime | float:
    if _DIGITS.fullmatch(value) and not is_compact(value):
        return float(value) if "." in value else int(value)
    try:
        return read_date(value)
    except ValueError as error:
        raise ValueError(f"timestamp: {value[:40]!r} is not a time: {error}") from None


def _no_time(value: Any) -> str:
    if value is None or value == "":
        return "timestamp: is missing"
    return f"timestamp: {str(value)[:40]!r} is not a time; give seconds, milliseconds or ISO 8601"


def number(value: Any) -> float | None:
    """A number, also from a price: "$1,299.00", "from 12.99", the lower end of "$5 - $10".

    None for other values, for example "None", NaN, or a style sheet in a price field.
    """
    if isinstance(value, str):
        found = _PRICE.fullmatch(value.strip())
        return float(found[1].replace(",", "")) if found else None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def count(value: Any) -> int | None:
    """A whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def text(value: Any) -> str:
    """A text; each part of a list is on its own line. The records clean it.

    Web shops escape what people write: entities are resolved, and <br> is a line break.
    """
    parts = (html.unescape(_BREAK.sub("\n", part)) for part in _texts(value))
    return "\n".join(part for part in parts if part and not part.isspace())


def name(value: Any) -> str:
    """A text on one line, without HTML: titles, brands, categories."""
    return plain_text(clean_text(" ".join(_texts(value))))


def names(value: Any) -> list[str]:
    """The distinct names in a text, a list or a list of lists, in order."""
    return list(dict.fromkeys(found for one in _texts(value) if (found := name(one))))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield str(value)


def parsed_object(value: Any) -> Mapping[str, Any] | None:
    """A JSON object, also from its text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def storable(value: Any) -> Any:
    """A value that JSON and UTF-8 can hold: no NaN, no lone surrogates, no other types."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): storable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(one) for one in value]
    if isinstance(value, (float, Decimal)):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return clean_text(str(value))
