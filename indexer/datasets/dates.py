"""Read dates and times as people and programs write them, in English or in digits.

    2012-03-22T18:30:23-07:00   2012/03/22 18:30   20120322   22.03.2012   3/22/2012 6:30 PM
    Thu Mar 22 18:30:23 -0700 2012   Thu, 22 Mar 2012 18:30:23 GMT   March 22nd, 2012   22-Mar-2012

Times without a zone are UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("sept", "october", "november", "december"),
)
_ZONES = {"z": 0, "utc": 0, "gmt": 0} | {
    f"{letter}{kind}t": hours + (kind == "d")
    for letter, hours in {"e": -5, "c": -6, "m": -7, "p": -8}.items()
    for kind in "sd"
}
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?(?:\s*[ap]\.?m\.?)?"
_ZONE = r"[-+]\d{2}:?\d{2}|[a-z]{1,4}"
_NAMED = re.compile(
    rf"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*[,.]?\s+)?"
    rf"(?:(?P<m1>[a-z]{{3,9}})\.?[\s-]+(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?"
    rf"|(?P<d2>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]+(?P<m2>[a-z]{{3,9}})\.?)"
    rf"(?:\s+(?P<t1>{_CLOCK})(?:\s+(?P<z1>{_ZONE}))?)?"
    rf"[\s,-]+(?P<year>\d{{4}})"
    rf"(?:,?\s+(?:at\s+)?(?P<t2>{_CLOCK})(?:\s*(?P<z2>{_ZONE}))?)?",
    re.IGNORECASE,
)
_IN_DIGITS = re.compile(
    rf"(?P<a>\d{{1,4}})(?P<mark>[/.-])(?P<b>\d{{1,2}})(?P=mark)(?P<c>\d{{1,4}})"
    rf"(?:[\sT,]+(?P<t>{_CLOCK})(?:\s*(?P<z>{_ZONE}))?)?",
    re.IGNORECASE,
)
_MONTH_FIRST = re.compile(r"(\d{1,2}) (\d{1,2}), (\d{4})")
_COMPACT = re.compile(r"(?:199\d|20\d\d)(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")


def is_compact(value: str) -> bool:
    """Whether digits are a date such as 20120322; as seconds, all of these are in August 1970."""
    return _COMPACT.fullmatch(value) is not None


def read_date(text: str) -> datetime:
    """The time that a text names. Raises ValueError if it names none, or could name two."""
    if found := _MONTH_FIRST.fullmatch(text):
        month, day, year = map(int, found.groups())
        return datetime(year, month, day, tzinfo=UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    if found := _NAMED.fullmatch(text):
        name = (found["m1"] or found["m2"]).lower()
        if name not in _MONTHS and name not in _LONG_MONTHS:
            raise ValueError(f"{name!r} is no month")
        month = _MONTHS.index(name[:3]) + 1
        day = int(found["d1"] or found["d2"])
        clock, zone = found["t1"] or found["t2"], found["z1"] or found["z2"]
        return _at(datetime(int(found["year"]), month, day, tzinfo=UTC), clock, zone)
    if found := _IN_DIGITS.fullmatch(text):
        year, month, day = _ordered(found["a"], found["b"], found["c"], found["mark"])
        return _at(datetime(year, month, day, tzinfo=UTC), found["t"], found["z"])
    raise ValueError("no date")


def _ordered(first: str, second: str, last: str, mark: str) -> tuple[int, int, int]:
    """(year, month, day) of three numbers."""
    if len(first) == 4:
        return int(first), int(second), int(last)
    if len(last) != 4:
        raise ValueError("a year has four digits")
    a, b, year = int(first), int(second), int(last)
    if mark == "." or a > 12:
        return year, b, a
    if b > 12 or a == b:
        return year, a, b
    raise ValueError(f"may be {year}-{a:02}-{b:02} or {year}-{b:02}-{a:02}; write one of these")


def _at(day: datetime, clock: str | None, zone: str | None) -> datetime:
    if clock:
        hours, minutes, *rest = re.findall(r"\d+", clock)
        hour = int(hours)
        if half := re.search(r"[ap](?=\.?m)", clock.lower()):
            if not 1 <= hour <= 12:
                raise ValueError("no time of day")
            hour = hour % 12 + 12 * (half[0] == "p")
        day = day.replace(hour=hour, minute=int(minutes), second=int(rest[0]) if rest else 0)
    return day.replace(tzinfo=_zone(zone)) if zone else day


def _zone(name: str) -> timezone:
    if name[0] in "+-":
        shift = timedelta(hours=int(name[1:3]), minutes=int(name[-2:]))
        return timezone(-shift if name[0] == "-" else shift)
    if (hours := _ZONES.get(name.lower())) is None:
        raise ValueError(f"the time zone {name!r} is not known")
    return timezone(timedelta(hours=hours))
