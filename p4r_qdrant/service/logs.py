"""Structured logs: one JSON object per line, with request ids and without users' texts."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

requests = logging.getLogger("p4r_qdrant.service")


class JsonLines(logging.Formatter):
    """A record as one JSON object; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Of an error only kind and place: its message can quote users."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(line, ensure_ascii=False, default=str)


def configure() -> None:
    """Log level INFO and above to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # They log addresses, which hold ids.
    for chatty in ("httpx", "httpx2", "httpcore", "sentence_transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for quoting in (
        "opentelemetry.trace",
        "opentelemetry.baggage",
    ):  # they quote headers that they cannot parse
        logging.getLogger(quoting).setLevel(logging.ERROR)
