"""Retry-After: seconds, milliseconds, dates, and values that cannot be read."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from p4r_qdrant.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": ""}, 0),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after-ms": "400"}, 0.4),
        ({"retry-after-ms": "400", "retry-after": "9"}, 0.4),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after-ms": "-1"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_the_wait(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds
    assert (
        retry_after_s(httpx.Headers({name.title(): headers[name] for name in headers})) == seconds
    )


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_date_in_the_future(zone: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    value = format_datetime(later, usegmt=True).replace("GMT", zone)
    assert 3590 < retry_after_s({"retry-after": value}) <= 3600
