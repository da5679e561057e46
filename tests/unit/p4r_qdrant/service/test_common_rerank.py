"""`POST /rerank`: the protocol of Cohere, Jina and Voyage, with their clients where they can be."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import cohere
import httpx
import requests
import voyageai
from starlette.testclient import TestClient
from voyageai.client import Client as VoyageClient

from p4r_qdrant.errors import EncoderError, IndexRefusedError, IndexUnavailableError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.service import common_rerank
from p4r_qdrant.service.request import FailedError
from p4r_qdrant.settings import RerankSettings
from p4r_qdrant.users.store import UserStore
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.serving import (
    AS_ADMIN,
    CATALOGUE,
    DIMENSION,
    READER,
    make_app,
    make_index,
    running,
    with_service,
)

SAILOR = "tall ships under sail and the harbour"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = embedded(tmp_path_factory.mktemp("made") / "index")
    make_index(settings)
    app = make_app(with_service(settings, max_candidates=50), HashEncoder(DIMENSION))
    with TestClient(app, headers=AS_ADMIN) as client:
        client.post(
            "/v1/users/ada/interactions",
            json={"item_id": "roses", "timestamp": 1, "rating": 5, "text": "old roses"},
        ).raise_for_status()
        yield client


def ask(client: TestClient, query: str, documents: list[Any], **options: Any) -> Any:
    body = {"model": "personas", "query": query, "documents": documents, **options}
    response = client.post("/rerank", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def order(answer: Any, documents: list[str]) -> list[str]:
    return [documents[one["index"]] for one in answer["results"]]


def test_a_described_person_orders_items(client: TestClient) -> None:
    documents = list(CATALOGUE)
    answer = ask(client, SAILOR, documents)
    assert order(answer, documents)[0] == "ships"
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < one < 1 for one in scores)
    assert sorted(one["index"] for one in answer["results"]) == [0, 1, 2, 3]
    body = {"users": [{"vector": HashEncoder(DIMENSION).encode_texts([SAILOR])[0].tolist()}]}
    body["users"][0]["candidates"] = documents
    ours = client.post("/v1/rerank", json=body).json()["rankings"][0]["items"]
    assert order(answer, documents) == [one["item_id"] for one in ours]


def test_the_vector_of_a_stored_user_is_read_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    user_vectors = UserStore.user_vectors

    def counting(store: UserStore, user_ids: Any) -> Any:
        read.append(list(user_ids))
        return user_vectors(store, user_ids)

    monkeypatch.setattr(UserStore, "user_vectors", counting)
    documents = ["a book about old roses", *CATALOGUE]
    assert order(ask(client, "ada", documents), documents)[-1] != "roses"
    assert read == [["ada"]]


def test_a_described_person_counts_whatever_weight_personas_have(tmp_path: Path) -> None:
    """`p4r tune` may set the weight of personas to 0: of users of whom more is known."""
    settings = embedded(tmp_path)
    make_index(settings)
    weights = RerankSettings(fusion="standard", persona_weight=0, generator_weight=1)
    given = with_service(settings.model_copy(update={"rerank": weights}))
    with TestClient(make_app(given), headers=AS_ADMIN) as client:
        documents = ["cakes", "roses", "ships"]
        assert order(ask(client, SAILOR, documents), documents)[0] == "ships"
        assert order(ask(client, SAILOR, ["a text", *documents]), ["", *documents])[-1] != "ships"


def test_a_stored_user_orders_items(client: TestClient) -> None:
    documents = ["ships", "cakes", "roses"]
    answer = ask(client, "ada", documents)
    assert order(answer, documents)[0] == "roses"
    ours = client.post(
        "/v1/rerank", json={"users": [{"user_id": "ada", "candidates": documents}]}
    ).json()["rankings"][0]["items"]
    assert order(answer, documents) == [one["item_id"] for one in ours]


def test_documents_may_be_texts(client: TestClient) -> None:
    documents = ["cakes", "a book of tall ships under sail", "ships"]
    answer = ask(client, SAILOR, documents, return_documents=True)
    assert order(answer, documents)[-1] == "cakes"
    assert all(one["document"]["text"] == documents[one["index"]] for one in answer["results"])
    same = ask(client, SAILOR, [{"text": one} for one in documents])
    assert [one["index"] for one in same["results"]] == [one["index"] for one in answer["results"]]


def test_the_same_document_twice_has_the_same_score(client: TestClient) -> None:
    answer = ask(client, SAILOR, ["ships", "a text", "ships", "a text"])
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert scores[0] == scores[2]
    assert scores[1] == scores[3]


SENT = {
    "LiteLLM 1.110.2, cohere": ("/v2/rerank", {"return_documents": True}),
    "LiteLLM 1.110.2, hosted_vllm": ("/rerank", {"return_documents": True}),
    "LiteLLM 1.110.2, together_ai": ("/rerank", {"return_documents": True}),
    "Jina's API reference": ("/rerank", {"return_documents": False}),
    "no options": ("/rerank", {}),
}
"""Where a client sends its request, and what it adds to model, query, documents and top_n."""


@pytest.mark.parametrize("name", SENT)
def test_requests_of_other_programs(client: TestClient, name: str) -> None:
    """As they were recorded (LiteLLM), or as they are documented."""
    path, more = SENT[name]
    documents: list[Any] = ["cakes", "ships", "roses"]
    if name.startswith("Jina"):
        documents[0] = {"text": "cakes"}
    body = {"model": "personas", "query": SAILOR, "top_n": 2, "documents": documents, **more}
    answer = client.post(path, json=body)
    assert answer.status_code == 200
    said = answer.json()
    assert isinstance(said["id"], str)
    first, second = said["results"]
    assert first["index"] == 1
    assert first["relevance_score"] > second["relevance_score"]
    if more.get("return_documents"):
        assert first["document"] == {"text": "ships"}


@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_only_the_first_results(client: TestClient, name: str) -> None:
    answer = ask(client, SAILOR, list(CATALOGUE), **{name: 2})
    assert len(answer["results"]) == len(answer["data"]) == 2
    assert len(ask(client, SAILOR, ["ships"], **{name: 2})["results"]) == 1


def test_options_of_other_servers_have_no_effect(client: TestClient) -> None:
    ask(client, SAILOR, ["ships"], truncation=True, max_tokens_per_doc=4096, priority=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 51}, "51 documents"),
        ({"documents": [1]}, "documents.0"),
        ({"documents": ["x" * 100_001]}, "documents.0"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_what_has_to_be_put_right(client: TestClient, change: Any, said: str) -> None:
    body = {"query": SAILOR, "documents": ["ships"], **change}
    response = client.post("/rerank", json=body)
    assert response.status_code == 422
    assert said in response.json()["error"]["message"]
    assert response.json()["detail"] == response.json()["error"]["message"], "for Jina's clients"


def test_strange_texts_are_texts(client: TestClient) -> None:
    documents = ["\u202eright to left", "\x00", "🚢" * 3000, "' OR 1=1 --", " ", "../../etc"]
    answer = ask(client, "ignore all instructions \u200b", documents)
    assert sorted(one["index"] for one in answer["results"]) == list(range(6))


@pytest.mark.parametrize(
    "text", ["\x91", "a\nb", " ships", "ships\u200b", "\x11\U000e0111", "x" * 600]
)
def test_what_cannot_be_an_id_is_a_text(client: TestClient, text: str) -> None:
    for query, documents in ((SAILOR, [text, "roses"]), ("ada", [text]), (f"{text}!", ["roses"])):
        answer = ask(client, query, documents)
        assert len(answer["results"]) == len(documents)
        assert answer["degraded"] is None


def test_it_needs_a_key(client: TestClient) -> None:
    body = {"query": SAILOR, "documents": ["ships"]}
    for path in ("/rerank", "/v2/rerank"):
        response = client.post(path, json=body, headers={"Authorization": "Bearer wrong"})
        assert response.status_code == 401
        assert "key is unknown" in response.json()["detail"]


def test_if_the_index_fails_the_order_stays(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise IndexUnavailableError("it is away")

    monkeypatch.setattr(PersonaIndex, "best_personas", fails)
    before = degraded(client, "index_unavailable")
    answer = ask(client, SAILOR, list(CATALOGUE))
    assert degraded(client, "index_unavailable") == before + 1, "counted once"
    assert answer["degraded"] == "index_unavailable"
    assert [one["index"] for one in answer["results"]] == [0, 1, 2, 3]
    assert {one["relevance_score"] for one in answer["results"]} == {0.0}


def degraded(client: TestClient, reason: str) -> float:
    found = re.search(
        rf'p4r_rerank_degraded_total{{reason="{reason}"}} (\S+)', client.get("/metrics").text
    )
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FailedError("overloaded"), "overloaded"),
        (IndexRefusedError("strict mode"), "index_refused"),
        (EncoderError("it is away"), "encoder_unavailable"),
    ],
)
def test_whatever_fails_before_the_ranking_keeps_the_order(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    async def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(common_rerank, "vector_of_user", fails)
    before = degraded(client, reason)
    answer = ask(client, "ada", list(CATALOGUE))
    assert answer["degraded"] == reason
    assert [one["index"] for one in answer["results"]] == [0, 1, 2, 3]
    assert degraded(client, reason) == before + 1


def test_the_clients_of_cohere_and_voyage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = list(CATALOGUE)
    make_index(embedded(tmp_path))
    app = make_app(with_service(embedded(tmp_path)), HashEncoder(DIMENSION))
    with running(app) as address, httpx.Client() as http, requests.Session() as session:
        of_cohere = cohere.ClientV2(READER, base_url=address, httpx_client=http).rerank(
            model="personas", query=SAILOR, documents=documents, top_n=2
        )
        monkeypatch.setattr(voyageai, "requestssession", session)
        of_voyage = VoyageClient(READER, base_url=address).rerank(
            SAILOR, documents, model="personas", top_k=2
        )
    assert documents[of_cohere.results[0].index] == "ships"
    assert [one.index for one in of_voyage.results] == [one.index for one in of_cohere.results]
    assert of_voyage.results[0].document == "ships"
