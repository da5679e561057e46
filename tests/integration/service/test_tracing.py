"""`p4r serve` with tracing, and a collector that takes OTLP over HTTP."""

import http.server
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.engines import embedded
from tests.support.service_process import address_of, rerank, served, wait_until_ready
from tests.support.serving import READER, history, make_index


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    """Its address, and what it has been sent: (the header x-tenant, the request)."""
    sent: list[tuple[str, ExportTraceServiceRequest]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            sent.append((self.headers["x-tenant"], ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()


def test_spans_reach_a_collector_before_the_process_ends(tmp_path: Path) -> None:
    make_index(embedded(tmp_path / "p4r-index"))
    with (
        collector() as (endpoint, sent),
        served(
            tmp_path,
            *("--port", "0"),
            P4R_SERVICE__API_KEY=READER,
            P4R_SERVICE__TRACING="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=shop",
            OTEL_SERVICE_NAME="shop-reranker",
        ) as process,
    ):
        address = address_of(process)
        wait_until_ready(address)
        rerank(address, history=history("roses"))
        unreadable = {"traceparent": "my secret", "tracestate": "=secret", "baggage": "u=my secret"}
        assert httpx2.get(f"{address}/v1/items/x/personas", headers=unreadable).status_code == 401
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGTERM, errors
    assert "secret" not in errors
    assert {tenant for tenant, _ in sent} == {"shop"}
    resources = [one for _, request in sent for one in request.resource_spans]
    [named] = {
        one.value.string_value
        for resource in resources
        for one in resource.resource.attributes
        if one.key == "service.name"
    }
    assert named == "shop-reranker"
    spans = [span.name for one in resources for scope in one.scope_spans for span in scope.spans]
    asked = ["GET /v1/items/{item_id}/personas", "POST /v1/rerank"]
    assert sorted(spans) == [*asked, "encode", "query", "total"]


def test_a_collector_that_is_not_there_harms_nobody(tmp_path: Path) -> None:
    make_index(embedded(tmp_path / "p4r-index"))
    with served(
        tmp_path,
        *("--port", "0"),
        P4R_SERVICE__API_KEY=READER,
        P4R_SERVICE__TRACING="true",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    ) as process:
        address = address_of(process)
        wait_until_ready(address)
        assert not rerank(address, history=history("roses"))["degraded"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM, errors
    assert "Traceback" not in errors
