"""How long a server asks its clients to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait before the next attempt; 0 without a header that can be read.

    Reads `retry-after-ms` (milliseconds, sent by LLM servers), then `Retry-After` (seconds or an
    HTTP date). headers: names in lower case, or a mapping that ignores case.
    """
    with suppress(KeyError, ValueError):
        return _wait(float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return _wait(float(value))
    with suppress(ValueError, TypeError):
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return _wait((moment - datetime.now(UTC)).total_seconds())
    return 0.0


def _wait(seconds: float) -> float:
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
