"""Dates as people and programs write them."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.datasets.values import seconds

DAY = 1332374400
"""Midnight of 22 March 2012, UTC."""
EVENING = DAY + 18 * 3600 + 30 * 60


@pytest.mark.parametrize(
    "text",
    [
        "2012-03-22",
        "2012/03/22",
        "2012/3/22",
        "2012.03.22",
        "20120322",
        20120322,
        "22.03.2012",
        "22.3.2012",
        "22/03/2012",
        "3/22/2012",
        "22-03-2012",
        "22-Mar-2012",
        "22 Mar 2012",
        "22 March 2012",
        "22nd March 2012",
        "22. March 2012",
        "March 22, 2012",
        "Mar. 22, 2012",
        "March 22nd, 2012",
        "Thursday, March 22, 2012",
        "Thu 22 Mar 2012",
        "03 22, 2012",
    ],
)
def test_days(text: str | int) -> None:
    assert seconds(text) == DAY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thu Mar 22 18:30:23 -0700 2012", EVENING + 23 + 7 * 3600),  # Goodreads, Twitter
        ("Thu Mar 22 18:30:23 2012", EVENING + 23),
        ("Thu Mar 22 18:30:23 UTC 2012", EVENING + 23),
        ("Thu, 22 Mar 2012 18:30:23 GMT", EVENING + 23),
        ("Thu, 22 Mar 2012 18:30:23 +0200", EVENING + 23 - 2 * 3600),
        ("22 Mar 2012 18:30", EVENING),
        ("March 22, 2012 6:30 PM", EVENING),
        ("March 22, 2012 at 6:30 p.m.", EVENING),
        ("3/22/2012 6:30 PM", EVENING),
        ("3/22/2012 12:30 AM", DAY + 1800),
        ("3/22/2012 12:30 PM", DAY + 12 * 3600 + 1800),
        ("22.03.2012 18:30", EVENING),
        ("22.03.2012, 18:30:23", EVENING + 23),
        ("2012/03/22 18:30:23", EVENING + 23),
        ("2012-03-22 18:30:23 +0000", EVENING + 23),
        ("2012-03-22 18:30:23 UTC", EVENING + 23),
        ("2012-03-22 18:30:23.123 PST", EVENING + 23 + 8 * 3600),
        ("2012-03-22T18:30:23Z", EVENING + 23),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("03/04/2012", "may be 2012-03-04 or 2012-04-03"),
        ("22 Mart 2012", "'mart' is no month"),
        ("22 Mar 12", "no date"),
        ("3/22/12", "a year has four digits"),
        ("31 Feb 2012", "day is out of range"),
        ("2012-03-22 18:30 XYZ", "time zone 'XYZ' is not known"),
        ("3/22/2012 13:30 PM", "no time of day"),
        ("22/22/2012", "month must be"),
        ("yesterday", "no date"),
        ("9999-12-31 99:99", "hour must be"),
        (253402300799, "give seconds"),
        (253402214400, "give seconds"),
    ],
)
def test_what_is_no_date_or_could_be_two(text: str | int, said: str) -> None:
    with pytest.raises(ValueError, match=r"^timestamp: .*is not a time") as raised:
        seconds(text)
    assert said in str(raised.value)


@given(st.integers(631152000, 2145916800))
def test_what_strftime_writes_is_read(time: int) -> None:
    moment = datetime.fromtimestamp(time, UTC)
    for form in (
        *("%a %b %d %H:%M:%S +0000 %Y", "%a, %d %b %Y %H:%M:%S GMT"),
        "%B %d, %Y %I:%M:%S %p",
    ):
        assert seconds(moment.strftime(form)) == time
    for form in ("%Y%m%d", "%m %d, %Y", "%d.%m.%Y"):
        assert seconds(moment.strftime(form)) == time - time % 86400


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    with suppress(ValueError):
        seconds(text)
