"""What docs/how-to/dashboard.md promises, by the REST requests that the dashboard sends."""

from typing import Any

import pytest

from devtools.qdrant_process import QdrantServer
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import index_artifacts
from p4r_qdrant import open_index
from tests.support.engines import on_server
from tests.support.hash_encoder import HashEncoder
from tests.support.paths import BOOKSHOP


@pytest.fixture
def collection(qdrant_server: QdrantServer, collection_name: str) -> str:
    encoder = HashEncoder()
    settings = on_server(qdrant_server, collection_name, fields="")
    with open_index(
        settings, dimension=encoder.dimension, fingerprint=encoder.fingerprint, create=True
    ) as index:
        folder = ArtifactFolder(BOOKSHOP)
        report = index_artifacts(folder, encoder, index, domain="books", refusals=Refusals())
    assert report.written == 24
    return collection_name


def scroll(server: QdrantServer, collection: str, *must: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"limit": 200, "with_payload": True, "filter": {"must": list(must)}}
    answer = server.request("POST", f"/collections/{collection}/points/scroll", body)
    return [point["payload"] for point in answer["result"]["points"]]


def test_the_payload_opens_with_what_a_person_looks_for(
    qdrant_server: QdrantServer, collection: str
) -> None:
    payloads = scroll(qdrant_server, collection)
    assert len(payloads) == 99
    for payload in payloads:
        assert list(payload)[:7] == [
            "name",
            "item_title",
            "category",
            "summary",
            "domain",
            "preference_rationale",
            "description",
        ]
        assert not payload["preference_rationale"].startswith("This persona")


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("item_id", {"value": "salt-orchard"}),
        ("item_title", {"text": "orchard"}),
        ("name", {"text": "night"}),
        ("domain", {"value": "books"}),
    ],
)
def test_filters_by_keyword_and_by_word(
    qdrant_server: QdrantServer, collection: str, key: str, match: dict[str, str]
) -> None:
    wanted = next(iter(match.values()))
    payloads = scroll(qdrant_server, collection, {"key": key, "match": match})
    assert payloads
    assert all(wanted in payload[key].lower() for payload in payloads)


def test_categories_are_slugs_that_can_be_typed(
    qdrant_server: QdrantServer, collection: str
) -> None:
    categories = {payload["category"] for payload in scroll(qdrant_server, collection)}
    assert len(categories) > 5
    assert not any(" " in category or category != category.lower() for category in categories)


def test_find_similar_and_graph_work_without_links(
    qdrant_server: QdrantServer, collection: str
) -> None:
    body: dict[str, Any] = {"limit": 1}
    scrolled = qdrant_server.request("POST", f"/collections/{collection}/points/scroll", body)
    point = scrolled["result"]["points"][0]["id"]
    query = {"query": point, "limit": 5, "with_payload": True}
    answer = qdrant_server.request("POST", f"/collections/{collection}/points/query", query)
    assert len(answer["result"]["points"]) == 5
    assert point not in [one["id"] for one in answer["result"]["points"]]


def test_the_schema_names_the_indexed_fields(qdrant_server: QdrantServer, collection: str) -> None:
    schema = qdrant_server.request("GET", f"/collections/{collection}")["result"]["payload_schema"]
    kinds = {name: field["data_type"] for name, field in schema.items()}
    assert kinds == {
        "item_id": "keyword",
        "persona_id": "keyword",
        "category": "keyword",
        "domain": "keyword",
        "name": "text",
        "item_title": "text",
        "slot": "integer",
        "unsettled": "integer",
        "generation": "integer",
    }
