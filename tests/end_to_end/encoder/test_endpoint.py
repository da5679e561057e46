"""The encoder behind an address: a real server that answers well, late, wrong, or not at all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import ItemIndexer
from p4r_qdrant import PersonaReranker, Settings
from p4r_qdrant.encoder.endpoint import EndpointEncoder
from p4r_qdrant.encoder.fingerprint import same_encoder
from p4r_qdrant.errors import (
    AuthenticationError,
    EncoderError,
    IndexMismatchError,
    InputError,
    SettingsError,
    TextsRefusedError,
)
from p4r_qdrant.settings import EncoderSettings
from tests.support.embedding_server import MODEL, EmbeddingServer, running
from tests.support.hash_encoder import HashEncoder
from tests.support.memory_index import MemoryIndex
from tests.support.publishing import Truths, catalogue_at, run

KEY = "s3cr3t-k3y"
TEXTS = [f"{'long ' * (number % 13)}text {number}" for number in range(200)]


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with running() as server:
        yield server


def settings(server: EmbeddingServer, **options: Any) -> EncoderSettings:
    given = {"base_url": server.url, "model": MODEL, "timeout_s": 5} | options
    return Settings.load(encoder=given).encoder


@contextmanager
def connected(server: EmbeddingServer, **options: Any) -> Iterator[EndpointEncoder]:
    encoder = EndpointEncoder(settings(server, **options))
    try:
        yield encoder
    finally:
        encoder.close()


def sentence(caught: pytest.ExceptionInfo[Exception], server: EmbeddingServer) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert KEY not in text
    return text


def fails(server: EmbeddingServer, **options: Any) -> str:
    with pytest.raises(EncoderError) as caught, connected(server, **options) as encoder:
        encoder.encode_texts(["salt", "bread"])
    assert server.url in sentence(caught, server)
    return str(caught.value)


# --- it answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("knows_base64", [True, False])
def test_vectors_come_in_the_order_of_the_texts(
    server: EmbeddingServer, knows_base64: bool
) -> None:
    server.knows_base64 = knows_base64
    with connected(server, batch_size=7) as encoder:
        vectors = encoder.encode_texts(TEXTS)
        assert encoder.encode_texts([]).shape == (0, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, HashEncoder().encode_texts(TEXTS), atol=1e-6)
    assert {one["encoding_format"] for one in server.requests[-20:]} == {
        "base64" if knows_base64 else "float"
    }


def test_no_more_batches_at_once_than_asked_for(server: EmbeddingServer) -> None:
    server.latency_s = 0.01
    with connected(server, batch_size=4, concurrency=3) as encoder:
        encoder.encode_texts(TEXTS)
    assert 1 < server.most_at_once <= 3


def test_batches_that_are_too_large_are_halved(server: EmbeddingServer) -> None:
    server.most = 5
    with connected(server, batch_size=64, concurrency=1) as encoder:
        vectors = encoder.encode_texts(TEXTS)
        asked = len(server.requests)
        encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(vectors, HashEncoder().encode_texts(TEXTS), atol=1e-6)
    assert len(server.requests) - asked < 60, "what it takes at once is remembered"


@pytest.mark.parametrize("most", [1, 2])
def test_a_server_that_takes_one_text_at_a_time(server: EmbeddingServer, most: int) -> None:
    server.most = most
    with connected(server) as encoder:
        vectors = encoder.encode_texts(TEXTS[:9])
    np.testing.assert_allclose(vectors, HashEncoder().encode_texts(TEXTS[:9]), atol=1e-6)


def test_the_key_is_sent(server: EmbeddingServer) -> None:
    server.key = KEY
    with connected(server, api_key=KEY) as encoder:
        assert encoder.encode_texts(["salt"]).shape == (1, 32)
    for key in (None, "wrong"):
        with pytest.raises(AuthenticationError) as caught, connected(server, api_key=key):
            pass
        assert "P4R_ENCODER__API_KEY" in sentence(caught, server)


# --- it fails for a while ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 429, 500, 503])
def test_what_passes_is_tried_again(server: EmbeddingServer, code: int) -> None:
    with connected(server) as encoder:
        server.fail = [(code, {}), (code, {})]
        assert encoder.encode_texts(["salt"]).shape == (1, 32)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: EmbeddingServer, form: str) -> None:
    with connected(server) as encoder:
        value = "1.5" if form == "seconds" else formatdate(time.time() + 2.9, usegmt=True)
        server.fail = [(429, {"Retry-After": value})]
        begin = time.monotonic()
        encoder.encode_texts(["salt"])
        assert time.monotonic() - begin > 1.4


def test_one_that_is_down_for_long_is_given_up(server: EmbeddingServer) -> None:
    with connected(server, timeout_s=1) as encoder:
        for code, headers in ((503, {}), (429, {"Retry-After": "3600"})):
            server.fail = [(code, headers)] * 100
            with pytest.raises(EncoderError) as caught:
                encoder.encode_texts(["salt"])
            assert "within 1 s" in sentence(caught, server)
        server.fail = []
        assert encoder.encode_texts(["salt"]).shape == (1, 32)
    with pytest.raises(EncoderError, match="closed"):
        encoder.encode_texts(["salt"])


def test_one_that_never_answers_is_given_up(server: EmbeddingServer) -> None:
    server.latency_s = 3
    assert "within 0.5 s" in fails(server, timeout_s=0.5)


def test_nobody_there() -> None:
    with pytest.raises(EncoderError, match=r"http://127.0.0.1:1/v1/embeddings gave no answer"):
        EndpointEncoder(EncoderSettings(base_url="http://127.0.0.1:1/v1", timeout_s=1))


def test_refused_connections_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(EncoderError, match="refused"):
        EndpointEncoder(EncoderSettings(base_url="http://127.0.0.1:1/v1", timeout_s=60))


# --- it cannot encode one text -------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 400, 503, 0, 401, 403, 404, 451])
def test_one_text_that_fails_does_not_cost_the_others(server: EmbeddingServer, code: int) -> None:
    server.cannot, server.cannot_code = "text 77", code
    patience = (
        {"batch_size": 2, "timeout_s": 1} if code == 503 else {"batch_size": 32}
    )  # it may pass
    with connected(server, **patience) as encoder:
        with pytest.raises(TextsRefusedError) as caught:
            encoder.encode_texts(TEXTS)
        asked = sum(TEXTS[77] in one["input"] for one in server.requests)
        assert code != 500 or asked <= 3 + 4 + 3, "halves are sent once"
        assert encoder.encode_texts(TEXTS[:3]).shape == (3, 32)
    assert list(caught.value.reasons) == [77]
    said = "gives no answer" if code == 0 else f"{code}: no: {code}"
    assert said in sentence(caught, server)
    assert repr(TEXTS[77][:60]) in str(caught.value)
    others = [row for row in range(len(TEXTS)) if row != 77]
    expected = HashEncoder().encode_texts(TEXTS)
    np.testing.assert_allclose(caught.value.vectors[others], expected[others], atol=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: data[1:],
        lambda _: "blocked",
        lambda data: [{**one, "index": 9} for one in data],
    ],
)
def test_one_text_that_is_answered_wrong_does_not_cost_the_others(
    server: EmbeddingServer, answer: Any
) -> None:
    with connected(server, batch_size=32) as encoder:
        server.answer_to = lambda batch, data: answer(data) if TEXTS[77] in batch else data
        with pytest.raises(TextsRefusedError) as caught:
            encoder.encode_texts(TEXTS)
    assert list(caught.value.reasons) == [77]


def test_a_server_that_fails_on_everything_is_not_the_texts_fault(server: EmbeddingServer) -> None:
    with connected(server, timeout_s=2) as encoder:
        server.cannot = ""
        with pytest.raises(EncoderError, match=r"within 2 s \(500 .*: no: 500\)"):
            encoder.encode_texts(TEXTS)


def test_an_item_whose_text_fails_is_refused_and_the_others_are_written(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    folder = ArtifactFolder(catalogue_at(tmp_path / "catalogue", 6))
    rows = list(folder.index_rows("books", Refusals()))
    server.cannot = rows[2].texts()[0]
    index, refusals = MemoryIndex(32), Refusals()
    with connected(server) as encoder:
        report = ItemIndexer(encoder, index, refusals).index_all(iter(rows))
    assert (report.written, report.refused) == (5, 1)
    assert "500: no: 500" in refusals.sentences[0]
    assert rows[2].item.item_id not in index.item_ids()


# --- it answers wrong ----------------------------------------------------------------------------


def test_no_such_model_or_address(server: EmbeddingServer) -> None:
    for wrong in ({"model": "another"}, {"base_url": server.url.removesuffix("/v1")}):
        with pytest.raises(SettingsError) as caught, connected(server, **wrong):
            pass
        assert "P4R_ENCODER__MODEL" in sentence(caught, server)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda data: data[1:], "vectors to 3 texts"),
        (lambda data: [*data, data[0]], "vectors to 3 texts"),
        (lambda data: [data[0]] * len(data), "not one to each"),
        (lambda data: [{**one, "index": 9} for one in data], "something else"),
        (lambda data: [{**one, "index": -1} for one in data], "something else"),
        (lambda _: None, "something else"),
        (lambda _: "text", "something else"),
        (lambda data: [{"index": one["index"]} for one in data], "something else"),
        (lambda data: [{**one, "embedding": "?"} for one in data], "something else"),
        (lambda data: [{**one, "embedding": [["x"]]} for one in data], "something else"),
        (lambda data: [{**one, "embedding": 7.5} for one in data], "something else"),
    ],
)
def test_answers_that_are_no_embeddings(server: EmbeddingServer, answer: Any, said: str) -> None:
    server.answer = answer
    assert said in fails(server)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_vectors_that_point_nowhere(server: EmbeddingServer, value: float) -> None:
    server.change = lambda vectors: np.full_like(vectors, value)
    assert "zero, NaN or infinite to the text" in fails(server)


def test_numbers_beyond_float32(server: EmbeddingServer) -> None:
    server.knows_base64 = False
    server.answer = lambda data: [{**one, "embedding": [1e300] * 32} for one in data]
    assert "zero, NaN or infinite to the text" in fails(server)


def test_a_width_that_changes_under_way(server: EmbeddingServer) -> None:
    with connected(server) as encoder:
        server.change = lambda vectors: vectors[:, :-1]
        with pytest.raises(EncoderError, match="is another model there now"):
            encoder.encode_texts(["salt"])


def test_a_text_that_is_too_long_is_named(server: EmbeddingServer) -> None:
    server.longest = 1000
    with connected(server) as encoder:
        with pytest.raises(InputError) as caught:
            encoder.encode_texts([*TEXTS, "x" * 2000])
        assert "'xxxx" in sentence(caught, server)
        assert "2000 characters" in str(caught.value)


# --- which model it is ---------------------------------------------------------------------------


def test_the_fingerprint_tells_models_apart_and_forgives_rounding(server: EmbeddingServer) -> None:
    with connected(server) as encoder:
        fingerprint = encoder.fingerprint
    random = np.random.default_rng(0)

    def served(change: Any, **options: Any) -> str:
        server.change = change
        with connected(server, **options) as encoder:
            return encoder.fingerprint

    def noise(size: float) -> Any:
        def add(vectors: Any) -> Any:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            other = random.standard_normal(vectors.shape)
            return vectors + size * norms * other / np.linalg.norm(other, axis=1, keepdims=True)

        return add

    assert served(lambda vectors: vectors) == fingerprint
    for _ in range(20):
        assert same_encoder(served(noise(0.01)), fingerprint)
        assert not same_encoder(served(noise(1.0)), fingerprint)
    server.encoder = HashEncoder(salt="x")
    assert not same_encoder(served(lambda vectors: vectors), fingerprint)
    server.encoder = HashEncoder(48)
    assert not same_encoder(served(lambda vectors: vectors), fingerprint)


# --- what stands on it ---------------------------------------------------------------------------


def test_an_index_is_made_published_and_reranked_with_it(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    folder = catalogue_at(tmp_path / "catalogue")
    place = {"qdrant": {"path": tmp_path / "index"}}
    asked = Settings.load(**place, encoder={"base_url": server.url, "model": MODEL})
    with connected(server) as encoder:
        report = run(folder, encoder, asked)
        truths = Truths(folder, [encoder])
        assert report.written == 12
    only_address = Settings.load(**place, encoder={"base_url": server.url})
    with PersonaReranker.from_settings(only_address) as reranker:
        truths.check(3, reranker.rerank(truths.histories[3], truths.item_ids, explain=3))
    with PersonaReranker.from_settings(Settings.load(**place)) as reranker:
        with pytest.raises(IndexMismatchError, match="P4R_ENCODER__BASE_URL"):
            reranker.rerank(truths.histories[3], truths.item_ids)
        assert reranker.rerank(np.ones(32), truths.item_ids).items[0].score
    server.encoder = HashEncoder(salt="another model under the same name")
    with (
        PersonaReranker.from_settings(only_address) as reranker,
        pytest.raises(IndexMismatchError, match="was made with the encoder hashes"),
    ):
        reranker.rerank(truths.histories[3], truths.item_ids)
    with connected(server) as encoder:
        moved = run(folder, encoder, asked)
        assert (moved.written, moved.previous) == (12, report.version), "a version of its own"
