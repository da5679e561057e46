"""The data set formats by name."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.datasets.amazon import AMAZON_2014, AMAZON_2018, AMAZON_2023
from indexer.datasets.goodreads import GOODREADS
from indexer.datasets.plain import plain
from indexer.datasets.recbole import recbole
from indexer.datasets.sources import Format
from indexer.datasets.yelp import YELP
from p4r_qdrant.errors import InputError

FORMATS: dict[str, Format] = {
    "amazon-2023": AMAZON_2023,
    "amazon-2018": AMAZON_2018,
    "amazon-2014": AMAZON_2014,
    "yelp": YELP,
    "goodreads": GOODREADS,
    "plain": plain(),
    "recbole": recbole(),
}
_WITH_COLUMNS = {"plain": plain, "recbole": recbole}
"""The formats whose columns can be named."""


def format_named(name: str, columns: Sequence[str] = ()) -> Format:
    """A format by its name.

    columns: only for "plain" and "recbole", texts like "item_id=sku": our field, =, the source's.
    Raises: InputError for an unknown name, field or form.
    """
    if name not in FORMATS:
        raise InputError(f"there is no data set format {name!r}; choose {', '.join(FORMATS)}")
    if not columns:
        return FORMATS[name]
    if name not in _WITH_COLUMNS:
        formats = " and ".join(_WITH_COLUMNS)
        raise InputError(f"columns can be named for the formats {formats}, not for {name}")
    pairs = [one.partition("=") for one in columns]
    for (ours, equals, theirs), given in zip(pairs, columns, strict=True):
        if not (ours and equals and theirs):
            raise InputError(f"{given!r} names no column; write our field, =, theirs: item_id=sku")
    return _WITH_COLUMNS[name]({ours: theirs for ours, _, theirs in pairs})
