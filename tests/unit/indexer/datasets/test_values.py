"""Time stamps, prices, texts and lists as published data sets really write them."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.datasets import values
from indexer.datasets.values import SECONDS_END

# Milliseconds can be told from seconds for all times from March 1973 on.
FIRST = datetime(1973, 4, 1, tzinfo=UTC)
TIMES = st.integers(SECONDS_END // 1000, 4_000_000_000)


@given(TIMES, st.integers(0, 999))
def test_seconds_are_told_from_milliseconds_and_finer(time: int, rest: int) -> None:
    in_milliseconds = 1000 * time + rest
    for given_time in (
        time,
        float(time),
        str(time),
        in_milliseconds,
        str(in_milliseconds),
        float(in_milliseconds),
        1000 * in_milliseconds,
        1_000_000 * in_milliseconds,
    ):
        assert values.seconds(given_time) == time


@given(st.datetimes(FIRST.replace(tzinfo=None)))
def test_dates_and_iso_texts_are_utc_unless_they_say_otherwise(moment: datetime) -> None:
    whole = int(moment.replace(tzinfo=UTC, microsecond=0).timestamp())
    midnight = datetime(moment.year, moment.month, moment.day, tzinfo=UTC).timestamp()
    assert values.seconds(moment) == whole
    assert values.seconds(moment.isoformat()) == whole
    assert values.seconds(f"{moment:%Y-%m-%d %H:%M:%S}") == whole
    assert values.seconds(f"{moment:%Y-%m-%dT%H:%M:%S}+02:00") == whole - 7200
    assert values.seconds(moment.date()) == midnight
    assert values.seconds(f"{moment.month} {moment.day}, {moment.year}") == midnight
    assert values.seconds(f"{moment:%m %d, %Y}") == midnight


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [(0, 0), (-1, -1), (" 1400000000 ", 1400000000), (date(1970, 1, 2), 86400), (1.9, 1)],
)
def test_odd_times(given_time: Any, expected: int) -> None:
    assert values.seconds(given_time) == expected


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "",
        "yesterday",
        True,
        [],
        {},
        float("nan"),
        float("inf"),
        10**30,
        "9" * 30,
        "13 45, 20",
    ],
)
def test_what_is_no_time_is_refused_with_its_field(broken: Any) -> None:
    with pytest.raises(ValueError, match=r"^timestamp: "):
        values.seconds(broken)


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (12, 12.0),
        (12.5, 12.5),
        ("12.5", 12.5),
        ("$1,299.00", 1299.0),
        ("from 12.99", 12.99),
        ("$5.00 - $10.00", 5.0),
        ("USD 8", 8.0),
        ("€ 7.50", 7.5),
        ("None", None),
        ("", None),
        (None, None),
        ("nan", None),
        (float("nan"), None),
        (True, None),
        ([], None),
        (10**400, None),
        ("12,99", None),
        (".a-box-inner{background-color:#fff} 3.99", None),
    ],
)
def test_prices(price: Any, expected: float | None) -> None:
    assert values.number(price) == expected


def test_counts_are_whole() -> None:
    assert [values.count(one) for one in ("1,204", 3.0, "None", None)] == [1204, 3, None, None]


def test_a_text_may_be_a_list_or_missing() -> None:
    assert values.text(["One.", None, "", [" ", "Two."], 3]) == "One.\nTwo.\n3"
    assert values.text("It&#39;s <b>good</b>.<br />Twice &amp; more") == (
        "It's <b>good</b>.\nTwice & more"
    )
    assert values.text(None) == values.text({"a": 1}) == ""


def test_names_are_on_one_line_without_html_and_said_once() -> None:
    assert values.name(" Tom &amp; <b>Jerry</b>\n ") == "Tom & Jerry"
    assert values.names([["Books", "Poetry"], ["Books", " "], None]) == ["Books", "Poetry"]
    assert values.names("Books") == ["Books"]
    assert values.names(None) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_decimal_numbers_stay_numbers() -> None:
    assert values.storable({"price": Decimal("12.50")}) == {"price": 12.5}
    assert values.number(Decimal("12.50")) == 12.5


@given(JSON)
def test_any_value_becomes_storable_and_readable(value: Any) -> None:
    json.dumps(values.storable(value), ensure_ascii=False, allow_nan=False).encode()
    values.text(value)
    values.number(value)
    values.count(value)
    for one in values.names(value):
        assert one
        one.encode()
