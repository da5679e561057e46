"""A server whose strict mode forbids everything that it can forbid, as hosted clusters do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from devtools.qdrant_process import PrivateQdrant
from devtools.scripted_llm import ScriptedLLM
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import IndexRefusedError, InputError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.server.schema import payload_indexes
from p4r_qdrant.users.qdrant.collections import RECORD_INDEXES, VECTOR_INDEXES
from tests.support.columns import check_large, column
from tests.support.command_line import Run, in_process
from tests.support.engines import on_server, opened
from tests.support.environment import clear_settings
from tests.support.index_data import USER, personas, rows
from tests.support.messages import sentence
from tests.support.obliging_llm import obliging
from tests.support.oracle import Catalogue, assert_congruent
from tests.support.paths import BOOKSHOP, copy_bookshop
from tests.support.private_qdrant import private_servers
from tests.support.serving import AS_ADMIN, make_app, make_index, persona, with_service
from tests.support.tenants import WRITES, check_apart, two_shops

FORBIDDEN = {
    "ENABLED": "true",
    "UNINDEXED_FILTERING_RETRIEVE": "false",
    "UNINDEXED_FILTERING_UPDATE": "false",
    "SEARCH_ALLOW_EXACT": "false",
    "SEARCH_MAX_HNSW_EF": "8",
    "SEARCH_MAX_OVERSAMPLING": "1.0",
    "MAX_QUERY_LIMIT": "20",
    "MAX_TIMEOUT": "5",
    "UPSERT_MAX_BATCHSIZE": "4",
    "FILTER_MAX_CONDITIONS": "6",
    "CONDITION_MAX_SIZE": "10",
    "MAX_PAYLOAD_INDEX_COUNT": "40",
}
REVIEW = "I read it on the night train and passed it on to my sister."
CATALOGUE = Catalogue(
    {f"item-{number}": rows(number, 1 + number % 7) for number in range(45)},
    {
        f"item-{number}": {
            "language": ["en", "de", "fr"][number % 3],
            "stock": number % 5,
            "price": number / 2,
            "sale": number % 2 == 0,
            "tags": [f"t{number % 4}", "all"],
        }
        for number in range(45)
    },
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateQdrant]:
    with private_servers(tmp_path_factory.mktemp("strict"), 1) as (server,):
        server.environment |= {
            f"QDRANT__STORAGE__COLLECTION__STRICT_MODE__{name}": value
            for name, value in FORBIDDEN.items()
        }
        server.start()
        yield server


@pytest.fixture
def settings(strict: PrivateQdrant, request: pytest.FixtureRequest) -> Settings:
    name = request.node.name.replace("[", "-").replace("]", "")
    return on_server(strict.server, name)


@pytest.fixture
def filtered(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The fields of all conditions that were sent."""
    found = set[str]()
    for kind, name in ((models.FieldCondition, "key"), (models.OrderBy, "key")):
        right = kind.__init__

        def noted(self: Any, *, _right: Any = right, _name: str = name, **fields: Any) -> None:
            found.add(fields[_name])
            _right(self, **fields)

        monkeypatch.setattr(kind, "__init__", noted)
    return found


def test_the_index(settings: Settings, filtered: set[str]) -> None:
    ids = [*CATALOGUE.vectors, "missing"]
    with opened(settings) as index:
        assert index.load(CATALOGUE.rows()) == 45
        with open_versions(settings) as versions, versions.sole_writer(index.version):
            assert index.replace_item("item-6", personas("v2", 7), rows(6, 7))
        assert index.replace_item("item-6", personas("v3", 2), rows(6, 2))
        index.load(CATALOGUE.rows())
        index.delete_item("item-44")
        index.load(Catalogue({"old": rows(1, 7)}).rows())
        index.delete_unchanged({f"item-{number}": 1 for number in range(100, 130)})
        index.delete_unchanged({"old": index.written()["old"]})
        index.load(CATALOGUE.rows())
        index.record_typical_user(np.ones(index.metadata.dimension, np.float32))
        assert index.repair() == 0
        stats = index.stats()
        assert (stats.items, stats.personas) == (45, sum(map(len, CATALOGUE.vectors.values())))
        assert set(index.item_ids()) == set(CATALOGUE.vectors)
        assert len(list(index.items())) == 45
        assert len(index.hashes(ids)) == 45
        for wanted in (
            None,
            {"language": "en"},
            {"language": {"not": ["de", "fr"]}, "sale": True},
            {"stock": [1, 2], "tags": "all"},
            {"stock": {"gte": 1}, "price": {"lt": 20}},
            {"tags": [f"t{number}" for number in range(25)]},
            {"tags": {"not": [f"t{number}" for number in range(1, 25)]}},
        ):
            assert_congruent(index, CATALOGUE, rows(3, 2), [ids, ids[:7]], wanted)
        with pytest.raises(IndexRefusedError) as caught:
            index.nearest_items(USER, 5)
        assert "P4R_INDEX__HNSW=true" in sentence(caught)
    assert filtered <= set(payload_indexes(settings.index))


def test_the_collaborative_part(settings: Settings, filtered: set[str]) -> None:
    with opened(settings) as index:
        check_large(index, 120)
        index.put_provisional([column("new", None, {0: 9.0})])
        index.remove_columns([f"item-{number}" for number in range(1, 120)])
        assert index.collaborative_nearest({"item-0": 1.0}, 9) == [("new", 9.0)]
        assert len(index.item_numbers()) == 120
    assert filtered == {"unsettled"}, "no field of the columns needs a payload index"


def test_a_search_over_the_whole_catalogue(strict: PrivateQdrant) -> None:
    plain = on_server(strict.server, "whole")
    with opened(plain) as index:
        index.load(Catalogue({f"i{n}": rows(n, 1) for n in range(15)}).rows())
        few = index.nearest_items(USER, 15)
        assert len(few) == 15
        index.load(CATALOGUE.rows())
    linked = on_server(strict.server, "whole", hnsw=True)
    with opened(linked) as index:
        assert_congruent(index, CATALOGUE, rows(3, 1), [list(CATALOGUE.vectors)])
        seen = [match.item_id for match in index.nearest_items(USER, 30)]
        assert len(set(seen)) == 30
        others = index.nearest_items(USER, 30, {"sale": True}, exclude=seen[:15])
        assert not {match.item_id for match in others} & set(seen[:15])


def test_an_index_of_an_older_release_gets_the_payload_indexes_that_it_lacks(
    strict: PrivateQdrant, settings: Settings
) -> None:
    with opened(settings) as index:
        index.load(CATALOGUE.rows())
        version = index.version
    for field in ("generation", "price", "category"):
        strict.server.request("DELETE", f"/collections/{version}/index/{field}?wait=true")
    with open_index(settings) as reader, pytest.raises(InputError) as caught:
        reader.best_personas([USER], [["item-1"]], {"price": {"lt": 3}})
    assert "P4R_INDEX__FIELDS=price=float" in sentence(caught)
    with open_index(settings) as reader:
        with opened(settings) as index:
            assert index.replace_item("item-1", personas("new", 3), rows(1, 3))
        found = reader.best_personas([USER], [["item-2"]], {"price": {"lt": 3}})
        assert found[0][0].score is not None


def test_tenants(strict: PrivateQdrant) -> None:
    with two_shops(on_server(strict.server, "shops", hnsw=True)) as (a, b):
        check_apart(a, b, list(WRITES))


def test_the_users_and_the_service(settings: Settings, filtered: set[str]) -> None:
    make_index(settings)
    with TestClient(make_app(with_service(settings)), headers=AS_ADMIN) as client:
        for number, item_id in enumerate(["ships", "roses", "cakes"] * 8):
            body = {"item_id": item_id, "timestamp": number, "text": "lovely", "rating": 5}
            assert client.post("/v1/users/ada/interactions", json=body).status_code == 202
        assert len(client.get("/v1/users/ada/export").text.splitlines()) == 24
        assert client.get("/v1/users/ada").json()["personalized"]
        assert client.get("/v1/jobs").json()["waiting"] == 24
        put = {"title": "Kettles", "reviews": [], "categories": ["tea"]}
        assert client.put("/v1/items/kettle", json=put).status_code == 202
        ready = {
            "title": "Kettles",
            "personas": [persona("kettle", 0, "tea at four").model_dump()],
            "fields": {"shelf": "k"},
        }
        for _ in range(2):
            assert client.put("/v1/items/kettle", json=ready).json()["written"]
        user = {"user_id": "ada", "candidates": ["kettle", "trains", "ships"]}
        for wanted, first in ((None, None), ({"shelf": "k"}, "kettle")):
            answer = client.post("/v1/rerank", json={"users": [user], "filter": wanted}).json()
            assert not answer["degraded"], answer
            assert first in (None, answer["rankings"][0]["items"][0]["item_id"])
        refused = client.post("/v1/rerank", json={"users": [user], "filter": {"colour": "red"}})
        assert refused.status_code == 422
        assert "P4R_INDEX__FIELDS=colour=keyword" in refused.json()["error"]["message"]
        assert client.get("/v1/recommendations/ada?top=2").status_code == 200
        assert client.delete("/v1/items/kettle").status_code == 200
        assert client.delete("/v1/users/ada").json()["erased"] == 24
        assert client.get("/metrics").status_code == 200
    known = {*payload_indexes(settings.index), *RECORD_INDEXES, *VECTOR_INDEXES}
    assert filtered - known == set()
    assert filtered & {"generation", "unsettled", "kind", "number"}, "nothing was recorded"


def test_the_worker_and_another_version(settings: Settings, filtered: set[str]) -> None:
    """What the worker asks the stored jobs, and what a new encoder's version asks."""
    from p4r_qdrant.users.opening import open_store
    from p4r_qdrant.users.records import Job, StoredInteraction
    from p4r_qdrant.users.versions import drop_old
    from tests.support.hash_encoder import HashEncoder

    encoder = HashEncoder()
    with open_index(settings, encoder=encoder, create=True) as index:
        store = open_store(settings, index.version, index.metadata, settings.history)
        job = Job("a job", "item", body={"item_id": "a", "reviews": [{"user_id": "ada"}]})
        store.jobs.add(job)
        store.jobs.postpone(job, "not now", 0)
        [due] = store.jobs.due(64)
        store.jobs.give_up(due, "never")
        assert [one.problem for one in store.jobs.failed(20)] == ["never"]
        assert store.jobs.counts() == {"waiting": 0, "failed": 1}
        one = StoredInteraction("ada", "a", 1, title="ships")
        store.add(one)
        store.settle(one)
        assert store.encode_all(encoder) == 1
        assert set(store.interactions.items("ada", 9)) == {"a"}
        for number in range(45):  # more than a query may bring back
            store.add(StoredInteraction("bob", f"i{number}", number, title=f"book {number}"))
        assert len(store.interactions.recent("bob", 42)) == 42
        store.interactions.erase("bob")
        assert len(list(store.jobs.of_items())) == 1
        assert store.erase("ada") == 1
        store.jobs.finish(due)
        store.close()
    with open_versions(settings) as versions:
        assert drop_old(settings, versions) == ([], [])
    assert filtered <= {*payload_indexes(settings.index), *RECORD_INDEXES, *VECTOR_INDEXES}


@pytest.fixture
def p4r(
    strict: PrivateQdrant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command on the artifact folder `artifacts`, in this process."""
    from p4r_qdrant import PersonaEncoder
    from tests.support.hash_encoder import HashEncoder

    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P4R_QDRANT__URL", strict.server.url)
    monkeypatch.setenv("P4R_QDRANT__GRPC_PORT", str(strict.server.grpc_port))
    monkeypatch.setenv("P4R_QDRANT__API_KEY", strict.server.api_key or "")
    monkeypatch.setenv("P4R_QDRANT__COLLECTION", tmp_path.name)
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda *_: HashEncoder())
    return lambda *command: in_process(
        monkeypatch, capsys, (*command, "--artifacts", str(tmp_path / "artifacts"))
    )


def test_add_and_work(p4r: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over more items than one request may bring."""
    reviews = (BOOKSHOP / "reviews.jsonl").read_text().splitlines(keepends=True)[::3]
    arrivals = tmp_path / "arrivals.jsonl"
    arrivals.write_text((BOOKSHOP / "items.jsonl").read_text() + "".join(reviews))
    with ScriptedLLM(obliging) as llm:
        monkeypatch.setenv("P4R_LLM__BASE_URL", llm.url)
        for _ in range(2):
            assert p4r("add", str(arrivals), "--domain", "books", "--settle", "0").code == 0
        service = with_service(Settings.load())
        with TestClient(make_app(service), headers=AS_ADMIN) as client:
            for number, item_id in enumerate(["salt-orchard", "ninth-water"] * 4):
                body = {"item_id": item_id, "timestamp": number, "text": REVIEW, "rating": 5}
                for user_id in ("ada", "bob"):
                    client.post(f"/v1/users/{user_id}/interactions", json=body).raise_for_status()
            put = {"title": "Kettles", "description": "For tea.", "reviews": []}
            client.put("/v1/items/kettle", json=put).raise_for_status()
            client.delete("/v1/users/ada").raise_for_status()
            assert p4r("work", "--domain", "books", "--once").code == 0
            assert client.get("/v1/jobs").json()["failed"] == 0
            history = client.get("/v1/users/bob").json()["history"]
            assert [one["has_aspects"] for one in history] == [True] * 8
            assert client.get("/v1/users/ada").status_code == 404
            body = {"users": [{"user_id": "bob", "candidates": ["kettle", "ninth-water"]}]}
            [ranking] = client.post("/v1/rerank", json=body).json()["rankings"]
    assert {one["score"] is not None for one in ranking["items"]} == {True}


@pytest.mark.long
def test_erase(p4r: Run, tmp_path: Path) -> None:
    copy_bookshop(tmp_path / "artifacts")
    index = ["index", "--domain", "books"]
    for command in (index, ["erase", "bea-k"], index):
        done = p4r(*command)
        assert done.code == 0, (command, done.err)


def test_what_the_server_refuses_is_no_outage(settings: Settings) -> None:
    """A quota that nothing here can keep to."""
    with opened(settings) as index:
        engine: Any = index.engine
        engine._client.update_collection(
            index.version, strict_mode_config=models.StrictModeConfig(max_points_count=1)
        )
        with pytest.raises(IndexRefusedError) as caught:
            index.load(CATALOGUE.rows())
        assert index.version in sentence(caught)
        assert "strict mode" in str(caught.value)


def test_payload_indexes_that_are_too_many(strict: PrivateQdrant) -> None:
    """The dashboard can do without words; a declared field cannot do without its index."""
    few = on_server(strict.server, "few", fields="")
    with opened(few) as index:
        engine: Any = index.engine
        for field in ("name", "item_title"):
            strict.server.request("DELETE", f"/collections/{index.version}/index/{field}?wait=true")
        own = models.StrictModeConfig(max_payload_index_count=7)
        engine._client.update_collection(index.version, strict_mode_config=own)
    with opened(few) as index:
        assert index.replace_item("a", personas("a", 2), rows(1, 2))
    with pytest.raises(IndexRefusedError):
        opened(on_server(strict.server, "few", fields="year=integer"))


def test_limits_that_change_under_an_open_index(settings: Settings) -> None:
    with opened(settings) as index:
        index.load(CATALOGUE.rows())
        engine: Any = index.engine
        engine._client.update_collection(
            index.version,
            strict_mode_config=models.StrictModeConfig(
                max_query_limit=9, condition_max_size=3, upsert_max_batchsize=2
            ),
        )
        ids = list(CATALOGUE.vectors)
        assert_congruent(index, CATALOGUE, rows(3, 1), [ids])
        assert len(index.hashes(ids)) == 45
        index.load(CATALOGUE.rows())
