"""OpenTelemetry traces, if P4R_SERVICE__TRACING is set.

FastAPI makes the span of a request; the spans of its stages are its children. The OpenTelemetry
variables set address, name and sampling: OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_* ... An incoming traceparent is the parent
of the request's span. No span holds an id, a filter or a text.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from p4r_qdrant import __version__
from p4r_qdrant.errors import MissingExtraError, SettingsError
from p4r_qdrant.service.paths import QUIET

try:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
except ModuleNotFoundError:
    raise MissingExtraError(
        "P4R_SERVICE__TRACING needs OpenTelemetry: pip install 'p4r-qdrant[tracing]'"
    ) from None

CLOSING_S = 3.0
"""Seconds that the end of the process waits for a collector that does not answer."""

_SUPPORTED = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}


class Tracing:
    """Makes the spans of one service and sends them."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """`exporter` replaces OTLP over HTTP to the address in OTEL_EXPORTER_OTLP_*.

        Raises SettingsError if OTEL_* name another exporter or protocol.
        """
        _check_environment()
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "p4r"}))
        self._exporter = exporter or OTLPSpanExporter()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_WithoutIds())
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("p4r_qdrant", __version__)
        self.of_requests: TelemetryConfig = {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope.get("path") in QUIET,
        }
        """The telemetry settings of FastAPI."""

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A stage of the request. Of an error only the kind is noted: messages can quote texts."""
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.StatusCode.ERROR)
                raise

    def set_counts(self, counts: Mapping[str, Any]) -> None:
        """Set `counts` (never texts) as attributes of the request's span."""
        trace.get_current_span().set_attributes(
            {f"p4r.{name}": value for name, value in counts.items()}
        )

    @property
    def trace_id(self) -> str:
        """Trace id of the current request, in hexadecimal digits."""
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    def close(self) -> None:
        """Send the remaining spans; gives up after CLOSING_S seconds."""
        giving_up = threading.Timer(CLOSING_S, self._exporter.shutdown)
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()


class _WithoutIds(SpanProcessor):
    """Removes path and query from spans: they hold ids and filters. The route stays."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:  # noqa: ARG002
        for name in ("url.path", "url.query"):
            if name in (span.attributes or ()):
                span.set_attribute(name, "REDACTED")


def _check_environment() -> None:
    """Raise SettingsError if OTEL_* name an exporter or protocol that is not supported."""
    for name, sent in _SUPPORTED.items():
        asked = os.environ.get(name, "").strip().lower()
        if asked and asked != sent:
            raise SettingsError(
                f"{name} is {asked!r}, but P4R_SERVICE__TRACING sends {sent}: unset it, and set "
                "OTEL_EXPORTER_OTLP_ENDPOINT to the collector's HTTP address (usually port 4318)"
            )
