"""Tracing: what spans a request leaves behind, whose they are, and what they never say."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from p4r_qdrant.errors import MissingExtraError, SettingsError
from p4r_qdrant.service import logs
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.state import Service
from p4r_qdrant.service.tracing import Tracing
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.serving import (
    AS_ADMIN,
    CATALOGUE,
    DIMENSION,
    history,
    make_app,
    make_index,
    with_service,
)

ALL = list(CATALOGUE)
SECRET = "my secret illness"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Ask = Callable[[TestClient], Any]


class FailingEncoder(HashEncoder):
    fails = False

    def encode_texts(self, batch: Any) -> Any:
        if self.fails:
            raise RuntimeError(SECRET)
        return super().encode_texts(batch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    make_index(embedded(folder))
    return folder


@pytest.fixture
def encoder() -> FailingEncoder:
    return FailingEncoder(DIMENSION)


@pytest.fixture
def spans_of(made: Path, encoder: FailingEncoder) -> Callable[[Ask], dict[str, ReadableSpan]]:
    """Asks a traced service, ends it, and gives the spans that it sent, by name."""

    def ask(what: Ask) -> dict[str, ReadableSpan]:
        exporter = InMemorySpanExporter()
        app = make_app(with_service(embedded(made)), encoder, Tracing(exporter))
        with TestClient(app, headers=AS_ADMIN, raise_server_exceptions=False) as client:
            what(client)
        sent = exporter.get_finished_spans()
        spans = {span.name: span for span in sent}
        assert len(spans) == len(sent)
        return spans

    return ask


def rerank(client: TestClient, text: str = "old roses", **headers: str) -> Any:
    user = {"history": history(text), "candidates": [*ALL, SECRET]}
    body = {"users": [user], "filter": {"shelf": {"not": SECRET}}}
    answer = client.post("/v1/rerank", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_request_and_its_stages(spans_of: Any) -> None:
    traceparent = f"00-{TRACE}-{PARENT}-01"
    spans = spans_of(lambda client: rerank(client, traceparent=traceparent))
    assert set(spans) == {"POST /v1/rerank", "total", "encode", "query"}
    request = spans["POST /v1/rerank"]
    assert request.parent.span_id == int(PARENT, 16)
    assert {span.context.trace_id for span in spans.values()} == {int(TRACE, 16)}
    assert spans["total"].parent.span_id == request.context.span_id
    for stage in ("encode", "query"):
        assert spans[stage].parent.span_id == spans["total"].context.span_id
        assert request.start_time <= spans[stage].start_time <= spans[stage].end_time
    told = dict(request.attributes)
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/rerank", 200)
    assert (told["p4r.users"], told["p4r.candidates"]) == (1, len(ALL) + 1)
    assert "p4r.degraded" not in told
    assert request.resource.attributes["service.name"] == "p4r"


def test_a_stage_that_fails(spans_of: Any, encoder: FailingEncoder) -> None:
    def ask(client: TestClient) -> None:
        encoder.fails = True
        assert rerank(client)["degraded"]

    spans = spans_of(ask)
    assert spans["encode"].status.status_code is trace.StatusCode.ERROR
    assert spans["encode"].attributes["error.type"] == "RuntimeError"
    assert spans["POST /v1/rerank"].attributes["p4r.degraded"] == ("encoder_unavailable",)
    assert spans["POST /v1/rerank"].status.is_ok


def test_recommendations(spans_of: Any) -> None:
    def ask(client: TestClient) -> None:
        client.post("/v1/users/u/interactions", json={"item_id": "ships", "timestamp": 1})
        assert client.get("/v1/recommendations/u").status_code == 200

    spans = spans_of(ask)
    asked = spans["GET /v1/recommendations/{user_id}"]
    assert spans["query"].parent.span_id == asked.context.span_id
    stored = spans["POST /v1/users/{user_id}/interactions"]
    assert spans["encode"].parent.span_id == stored.context.span_id


def test_a_known_user(spans_of: Any) -> None:
    def ask(client: TestClient) -> None:
        client.post("/v1/users/w/interactions", json={"item_id": "ships", "timestamp": 1})
        user = {"user_id": "w", "candidates": ALL}
        client.post("/v1/rerank", json={"users": [user]})

    spans = spans_of(ask)
    assert spans["query"].parent.span_id == spans["total"].context.span_id


def test_no_id_and_no_text_leaves_with_a_span(
    spans_of: Any, encoder: FailingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(client: TestClient) -> None:
        rerank(client, SECRET, baggage=f"user={SECRET}", **{"user-agent": SECRET})
        client.get(f"/v1/items/{SECRET}/personas")
        client.get(f"/v1/recommendations/{SECRET}", params={"filter": json.dumps({SECRET: SECRET})})
        client.put(f"/v1/items/{SECRET}", json={"personas": SECRET})
        client.get(f"/{SECRET}/of/mine")
        app: Any = client.app
        with monkeypatch.context() as crashing:
            crashing.setattr(app.state.service, "in_thread", crash)
            assert client.get("/v1/items/ships/personas").status_code == 500
        app.state.service.backend.cache.clear()
        encoder.fails = True
        assert rerank(client, SECRET)["degraded"]
        client.post(
            f"/v1/users/{SECRET}/interactions",
            json={"item_id": SECRET, "timestamp": 1, "rating": 1, "text": SECRET},
        )

    def crash(_: Any) -> None:
        raise ZeroDivisionError(SECRET)

    exported: list[str] = []
    monkeypatch.setattr(
        InMemorySpanExporter,
        "export",
        lambda _, spans: exported.extend(span.to_json() for span in spans),
    )
    spans_of(ask)
    assert len(exported) >= 6
    assert any("REDACTED" in span for span in exported)
    for word in ("secret", "illness", *AS_ADMIN.values()):
        assert not [span for span in exported if word in span]


def test_what_the_caller_does_not_sample_is_not_sent(spans_of: Any) -> None:
    traceparent = f"00-{TRACE}-{PARENT}-00"
    assert spans_of(lambda client: rerank(client, traceparent=traceparent)) == {}


def test_health_checks_are_not_traced(spans_of: Any) -> None:
    def ask(client: TestClient) -> None:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200

    assert spans_of(ask) == {}


def test_the_log_names_the_trace(spans_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spans_of(lambda client: rerank(client, traceparent=f"00-{TRACE}-{PARENT}-01"))
    lines = [json.loads(logs.JsonLines().format(record)) for record in caplog.records]
    assert [one["trace_id"] for one in lines if one["message"] == "request"] == [TRACE]


def test_off_is_off(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else in the process, or in its environment, asks for traces."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with TestClient(make_app(with_service(embedded(made))), headers=AS_ADMIN) as client:
        rerank(client)
    assert exporter.get_finished_spans() == ()


def test_without_the_sdk(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "p4r_qdrant.service.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    base = embedded(made)
    assert Service(Backend(with_service(base))).tracing is None
    with pytest.raises(MissingExtraError, match=r"pip install 'p4r-qdrant\[tracing\]'"):
        Service(Backend(with_service(base, tracing=True)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "console"),
    ],
)
def test_what_is_not_sent_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is '{value}'"):
        Tracing()
