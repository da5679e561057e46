"""Figures of an audit as text."""

from __future__ import annotations

from indexer.audit.figures import Found, Interval
from p4r_qdrant.records import clean_text

_LABEL_LENGTH = 80


def percent(share: float | None) -> str:
    """`0.357` as "35.7%"; "-" for None."""
    return "-" if share is None else f"{share:.1%}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 item", "2 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def count_of(count: int, total: int) -> str:
    """A count with its share of `total`: "3 (25.0%)"."""
    return f"{count:,} ({count / total:.1%})" if total else f"{count:,}"


def found_of(found: Found, total: int | None = None) -> str:
    """A count with its first example: "3 (25.0%): first example ..."."""
    count = f"{found.count:,}" if total is None else count_of(found.count, total)
    if not found.examples:
        return count
    return f"{count}: {found.examples[0]}{' ...' if found.count > 1 else ''}"


def difference(found: Interval, scale: float = 1, unit: str = "") -> str:
    """A difference with its 95 % interval, both multiplied by `scale`: "+0.25 (+0.22 to +0.27)"."""
    digits = 2 if scale == 1 else 1
    mean = f"{scale * found.mean:+.{digits}f}{unit}"
    if found.low is None or found.high is None:
        return f"{mean} (too few items for an interval)"
    return f"{mean} ({scale * found.low:+.{digits}f} to {scale * found.high:+.{digits}f})"


def label(name: str) -> str:
    """The name of a slot or persona on one line, without control characters, cut to a length."""
    return " ".join(clean_text(name).split())[:_LABEL_LENGTH] or "(no name)"


def slot_name(slot: str) -> str:
    """An aspect slot as words: "purchase_purpose" becomes "purchase purpose"."""
    return slot.replace("_", " ")
