"""Users on both engines: kept, ranked without encoding, exported, erased."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.records import Ranking
from p4r_qdrant.schemas.reranking import RerankBody, UserBody
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.ranking import Ranker
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.records import Job, StoredInteraction
from p4r_qdrant.users.store import UserStore
from p4r_qdrant.users.versions import drop_version
from tests.support.engines import on_server
from tests.support.grpc_calls import grpc_calls
from tests.support.hash_encoder import HashEncoder
from tests.support.serving import (
    AS_ADMIN,
    AS_READER,
    CATALOGUE,
    DIMENSION,
    history,
    ids,
    make_app,
    make_index,
    running,
    with_service,
)

ALL = list(CATALOGUE)
ENCODER = HashEncoder(DIMENSION)
OTHER = HashEncoder(24, salt="-other")


def store_of(settings: Settings, encoder: HashEncoder = ENCODER) -> UserStore:
    name = f"{settings.qdrant.collection}-{encoder.fingerprint}"
    return open_store(settings, name, IndexMetadata.of(encoder), settings.history)


@pytest.fixture
def store(index_settings: Settings) -> Iterator[UserStore]:
    opened = store_of(index_settings)
    yield opened
    opened.close()


def done(item_id: str, timestamp: int, *, user_id: str = "ada", **more: Any) -> StoredInteraction:
    one = StoredInteraction(user_id, item_id, timestamp, summary=f"All about {item_id}.", **more)
    return one.encoded(ENCODER.encode_texts([one.text])[0])


def job(one: StoredInteraction) -> Job:
    return Job(f"aspects {one.key}", "aspects", one.user_id, {"item_id": one.item_id})


def test_the_user_vector_is_that_of_the_history(store: UserStore) -> None:
    for number, item_id in enumerate(["a", "b", "c"]):
        assert store.add(done(item_id, number))
    found = store.user_vectors(["ada", "nobody"])
    assert list(found) == ["ada"]
    vector = found["ada"]
    [expected] = ENCODER.user_vectors(
        [[done(one, number).record for number, one in enumerate(["a", "b", "c"])]],
        length=store.length,
        decay=store.decay,
    )
    assert expected is not None
    np.testing.assert_allclose(vector.vector, expected.vector, atol=1e-6)
    np.testing.assert_allclose(vector.embeddings, expected.embeddings, atol=1e-6)
    np.testing.assert_allclose(vector.weights, expected.weights, atol=1e-6)
    assert [one.item_id for one in vector.interactions] == ["c", "b", "a"]


def test_only_the_newest_count_in_whatever_order_they_come(store: UserStore) -> None:
    for timestamp in [5, 30, 12, 1, 28, 7, 22, 13, 9, 4, 17, 21]:
        store.add(done(f"i{timestamp}", timestamp))
    times = [30, 28, 22, 21, 17, 13, 12, 9, 7, 5]
    assert [one.timestamp for one in store.recent("ada")] == times
    known = store.user_vectors(["ada"])["ada"]
    assert [one.timestamp for one in known.interactions] == times
    assert len(list(store.interactions.of("ada"))) == 12
    assert set(store.interactions.items("ada", 99)) == {
        one.item_id for one in store.interactions.of("ada")
    }
    newest = {one.item_id for one in store.interactions.recent("ada", 1)}
    assert set(store.interactions.items("ada", 1)) == newest


def test_times_that_are_equal(store: UserStore) -> None:
    for number in range(15):
        store.add(done(f"i{number:02}", 7))
    assert [one.item_id for one in store.recent("ada")] == [f"i{n:02}" for n in range(14, 4, -1)]


def test_the_same_twice_is_once_and_other_words_are_newer(store: UserStore) -> None:
    first = done("a", 1, review_text="fine")
    assert store.add(first, job(first))
    assert not store.add(first, job(first))
    assert store.jobs.counts() == {"waiting": 1, "failed": 0}
    assert store.add(done("a", 1, review_text="awful", rating=1.0))
    [only] = store.interactions.of("ada")
    assert (only.review_text, only.rating) == ("awful", 1.0)


def test_settling_never_brings_back_what_is_gone_or_changed(store: UserStore) -> None:
    one = done("a", 1, review_text="fine")
    store.add(one)
    settled = StoredInteraction(
        *(one.user_id, one.item_id, one.timestamp, None, "", one.summary, "", "fine"),
        aspects={"purpose": "a gift", "setting": None},
    )
    settled = settled.encoded(ENCODER.encode_texts([settled.text])[0])
    assert store.settle(settled)
    held = store.get(one)
    assert held is not None
    assert held.aspects == {"purpose": "a gift", "setting": None}
    vector = store.user_vectors(["ada"])["ada"]
    assert settled.vector is not None
    np.testing.assert_allclose(vector.vector, settled.vector, atol=1e-6)
    store.add(done("a", 1, review_text="changed"))
    assert not store.settle(settled)
    store.erase("ada")
    assert not store.settle(settled)
    assert store.get(one) is None
    assert store.user_vectors(["ada"]) == {}


def test_what_is_not_encoded_yet(store: UserStore) -> None:
    plain = StoredInteraction("bob", "b", 1, summary="not encoded yet")
    store.add(plain)
    assert store.user_vectors(["bob"]) == {}
    assert [one.item_id for one in store.recent("bob")] == ["b"]
    assert not store.add(plain.encoded(ENCODER.encode_texts(["b"])[0])), "now it is encoded"
    assert store.user_vectors(["bob"]).keys() == {"bob"}
    other = StoredInteraction("bob", "c", 2, summary="nor this")
    store.add(other)
    assert store.user_vectors(["bob"]) == {}
    store.remember([other.encoded(ENCODER.encode_texts([other.text])[0])])
    assert len(store.user_vectors(["bob"])["bob"].interactions) == 2


def test_each_version_has_its_own_vectors(index_settings: Settings, store: UserStore) -> None:
    """Another encoder's, of another width: what users did is there at once, the vectors are not."""
    OTHER.encoded.clear()
    store.add(done("a", 1))
    store.add(done("b", 2, user_id="bob"))
    other = store_of(index_settings, OTHER)
    try:
        assert other.user_vectors(["ada", "bob"]) == {}
        assert [one.vector for one in other.recent("ada")] == [None]
        assert sorted(other.interactions.user_ids()) == ["ada", "bob"]
        assert other.encode_all(OTHER) == 2
        assert len(OTHER.encoded) == 2
        assert other.encode_all(OTHER) == 2
        assert len(OTHER.encoded) == 2, "only what is missing is encoded"
        found = other.user_vectors(["ada", "bob"])
        assert {len(one.vector) for one in found.values()} == {24}
        assert {len(one.vector) for one in store.user_vectors(["ada", "bob"]).values()} == {
            DIMENSION
        }
        store.add(done("c", 3))
        assert len(store.user_vectors(["ada"])["ada"].interactions) == 2
        assert other.user_vectors(["ada"]) == {}, "what does not count everything is not there"
        assert other.user_vectors(["bob"]).keys() == {"bob"}
        other.encode_all(OTHER)
        assert len(other.user_vectors(["ada"])["ada"].interactions) == 2
        [newest, _] = store.recent("ada")
        store.settle(replace(newest, aspects={"purpose": "a gift"}).encoded(newest.vector))
        assert other.user_vectors(["ada"]) == {}, "its words have changed"
        assert [one.vector is None for one in other.recent("ada")] == [True, False]
        store.erase("ada")
        other.remember([one.encoded(OTHER.encode_texts(["x"])[0]) for one in [newest]])
        assert other.user_vectors(["ada"]) == {}
        assert list(other.interactions.user_ids()) == ["bob"]
    finally:
        other.close()


def test_somebody_acts_while_a_version_is_made(index_settings: Settings, store: UserStore) -> None:
    """The new version's vector counts what came while it was made, or is not there."""

    class Interrupted(HashEncoder):
        def encode_texts(self, batch: Sequence[str]) -> Floats:
            rows = super().encode_texts(batch)
            store.add(done("late", 9))
            return rows

    store.add(done("a", 1))
    other = store_of(index_settings, OTHER)
    try:
        other.encode_all(Interrupted(24, salt="-other"))
        assert other.user_vectors(["ada"]) == {}
        other.encode_all(OTHER)
        told = other.user_vectors(["ada"])["ada"].interactions
        assert [one.item_id for one in told] == ["late", "a"]
    finally:
        other.close()


def test_somebody_acts_before_an_older_vector_is_written(
    index_settings: Settings, store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(done("a", 1))
    other = store_of(index_settings, OTHER)
    right = other.vectors.put_user

    def late(user_id: str, vector: Any, encoded: Any = ()) -> None:
        monkeypatch.setattr(other.vectors, "put_user", right)
        store.add(done("late", 9))  # takes out what is not there yet
        right(user_id, vector, encoded)

    monkeypatch.setattr(other.vectors, "put_user", late)
    try:
        other.encode_all(OTHER)
        assert other.user_vectors(["ada"]) == {}, "it does not count what was done last"
    finally:
        other.close()


def test_many_writers_of_one_user(store: UserStore) -> None:
    def write(number: int) -> None:
        store.add(done(f"i{number}", number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = store.user_vectors(["ada"])["ada"]
    assert [one.item_id for one in known.interactions] == [f"i{n}" for n in range(7, -1, -1)]


def test_jobs_are_tried_again_given_up_and_replaced(store: UserStore) -> None:
    one = done("a", 1, review_text="fine")
    store.add(one, job(one))
    [taken] = store.jobs.due(10)
    assert taken == job(one)
    store.jobs.postpone(taken, "no answer", 0.3)
    assert store.jobs.due(10) == []
    time.sleep(0.4)
    [again] = store.jobs.due(10)
    assert (again.attempts, again.problem) == (1, "no answer")
    store.jobs.give_up(again, "no use")
    assert store.jobs.due(10) == []
    assert store.jobs.counts() == {"waiting": 0, "failed": 1}
    assert [(job.problem, job.attempts) for job in store.jobs.failed(5)] == [("no use", 2)]
    store.jobs.add(Job("item x", "item", body={"item": {"title": "old"}, "reviews": []}))
    [old] = store.jobs.due(10)
    store.jobs.add(Job("item x", "item", body={"item": {"title": "new"}, "reviews": []}))
    store.jobs.finish(old)
    [new] = store.jobs.due(10)
    assert new.body["item"] == {"title": "new"}
    store.jobs.finish(new)
    assert store.jobs.due(10) == []
    review = {"user_id": "u", "text": "é", "rating": 5.0, "timestamp": 5, "helpful": None}
    body = {"reviews": [review], "item": {"title": "z", "fields": {"b": 1.5, "a": [1]}}}
    store.jobs.add(Job("item y", "item", body=body))  # keys in no order, as people send them
    [taken] = store.jobs.due(10)
    store.jobs.postpone(taken, "not now", 60)
    assert store.jobs.due(10) == []
    store.jobs.finish(taken)
    assert store.jobs.counts()["waiting"] == 0


def test_the_vectors_of_a_version_go_with_it(index_settings: Settings) -> None:
    made = {encoder.fingerprint: encoder for encoder in (ENCODER, OTHER)}
    with open_versions(index_settings) as versions:
        names = {}
        for fingerprint, encoder in made.items():
            names[fingerprint] = name = versions.named(fingerprint)
            versions.open(name, IndexMetadata.of(encoder)).close()
            store = open_store(
                index_settings, name, IndexMetadata.of(encoder), index_settings.history
            )
            one = StoredInteraction("ada", "ships", 1, summary="All about ships.")
            store.add(one.encoded(encoder.encode_texts([one.text])[0]))
            store.encode_all(encoder)
            store.close()
        versions.switch({versions.alias: names[OTHER.fingerprint]})
        (gone_version,) = versions.old()
        assert gone_version.name == names[ENCODER.fingerprint]
        drop_version(index_settings, versions, gone_version)
    gone, stays = store_of(index_settings), store_of(index_settings, OTHER)
    try:
        assert gone.user_vectors(["ada"]) == {}
        assert stays.user_vectors(["ada"]).keys() == {"ada"}
    finally:
        gone.close()
        stays.close()


def test_erasing_takes_everything_and_reaches_what_waits(store: UserStore) -> None:
    one, other = done("a", 1, review_text="mine"), done("a", 1, user_id="bob")
    store.add(one, job(one))
    store.add(other)
    reviews = [{"user_id": "ada", "text": "mine"}, {"user_id": "bob", "text": "his"}]
    store.jobs.add(Job("item a", "item", body={"item": {}, "reviews": reviews}))
    assert store.erase("ada") == 1
    assert list(store.interactions.of("ada")) == []
    assert store.user_vectors(["ada", "bob"]).keys() == {"bob"}
    waiting = {found.kind: found for found in store.jobs.due(10)}
    assert waiting.keys() == {"item", "erase"}
    assert waiting["item"].body["reviews"] == [{"user_id": "bob", "text": "his"}]
    assert waiting["erase"].body == {"user_id": "ada"}
    assert store.erase("ada") == 0


def test_what_is_written_outlives_the_store(index_settings: Settings) -> None:
    one = done("a", 1, review_text="fine")
    first = store_of(index_settings)
    first.add(one, job(one))
    first.close()
    second = store_of(index_settings)
    assert second.jobs.due(10) == [job(one)]
    assert second.user_vectors(["ada"]).keys() == {"ada"}
    second.close()


# --- over HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder(DIMENSION)


@pytest.fixture
def address(index_settings: Settings, encoder: HashEncoder) -> Iterator[str]:
    make_index(index_settings)
    with running(make_app(with_service(index_settings), encoder)) as address:
        yield address


def post(address: str, user_id: str, item_id: str, timestamp: int, **more: Any) -> Any:
    body = {"item_id": item_id, "timestamp": timestamp, **more}
    answer = httpx2.post(
        f"{address}/v1/users/{user_id}/interactions", json=body, headers=AS_ADMIN, timeout=30
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def get(address: str, path: str) -> httpx2.Response:
    return httpx2.get(f"{address}{path}", headers=AS_ADMIN, timeout=30)


def rerank(address: str, *users: dict[str, Any]) -> Any:
    answer = httpx2.post(
        f"{address}/v1/rerank", json={"users": list(users)}, headers=AS_READER, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["rankings"]


def test_a_known_user_is_ranked_without_encoding(address: str, encoder: HashEncoder) -> None:
    assert post(address, "ada", "ships", 10)["encoded"]
    post(address, "ada", "roses", 20)
    encoder.encoded.clear()
    known, unknown = rerank(
        address, {"user_id": "ada", "candidates": ALL}, {"user_id": "nobody", "candidates": ALL}
    )
    assert encoder.encoded == []
    assert known["personalized"]
    assert {one["item_id"] for one in known["items"][0]["because"]} == {"ships", "roses"}
    assert (unknown["personalized"], unknown["degraded"], ids(unknown)) == (False, False, ALL)
    inline = [
        {"item_id": one, "timestamp": at, "summary": f"All about {one}.", "title": one.title()}
        for one, at in (("ships", 10), ("roses", 20))
    ]
    [same] = rerank(address, {"history": inline, "candidates": ALL})
    for ours, theirs in zip(known["items"], same["items"], strict=True):
        assert ours["item_id"] == theirs["item_id"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert [one["item_id"] for one in ours["because"]] == [
            one["item_id"] for one in theirs["because"]
        ]


def test_concurrent_reranks_of_known_users_share_their_calls(
    qdrant_server: QdrantServer, collection_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = on_server(qdrant_server, collection_name)
    make_index(settings)
    backend = Backend(settings, lambda _: ENCODER)
    assert backend.open()
    asked: list[str] = []
    right = Collection.ask

    def ask(collection: Collection, method: str, message: Any) -> Any:
        if collection.name == live.version:
            asked.append(method)
        return right(collection, method, message)

    with backend.in_use() as live:
        for number, item_id in enumerate(["ships", "roses"]):
            live.users.add(done(item_id, number))
        vector = live.users.user_vectors(["ada"])["ada"]
        alone = live.reranker.rerank(vector, ALL)
        monkeypatch.setattr(Collection, "ask", ask)
        found = asyncio.run(ranked_at_once(backend, ["ada"] * 8 + ["nobody"] * 4))
    # The first two at once, then those that wait.
    assert Counter(asked) == {"Query": 2, "QueryBatch": 1, "Get": 3}
    for ranking in found[:8]:
        assert ranking.personalized
        assert_same(ranking, alone)
    assert [one.personalized for one in found[8:]] == [False] * 4
    # A batch that takes long does not keep others waiting; what is wrong with one is its alone.
    go_on = threading.Event()
    read = live.users.user_vectors

    def slow(user_ids: Sequence[str]) -> Any:
        if "nobody" in user_ids:
            go_on.wait(10)
        if "wrong" in user_ids:
            raise IndexMismatchError("no such vector")
        return read(user_ids)

    monkeypatch.setattr(live.users, "user_vectors", slow)
    users = ["nobody", "nobody", "ada", "wrong", "ada"]
    found = asyncio.run(ranked_at_once(backend, users, done=go_on, after=2))
    assert [one.personalized for one in found] == [False, False, True, False, True]
    backend.close()


async def ranked_at_once(
    backend: Backend, users: list[str], done: threading.Event | None = None, after: int = 0
) -> list[Ranking]:
    """A ranking for each user, asked for at the same time.

    done: set when all users from the place `after` on have theirs.
    """
    metrics = Metrics()
    batcher = Batcher(metrics, window_s=0, max_waiting_texts=10)
    ranker = Ranker(backend, batcher, metrics)
    bodies = [RerankBody(users=[UserBody(user_id=one, candidates=[*ALL])]) for one in users]
    asking = [asyncio.create_task(ranker.rerank(one)) for one in bodies]
    if done is not None:
        await asyncio.wait(asking[after:])
        done.set()
    found = [ranking for [ranking], _ in await asyncio.gather(*asking)]
    ranker.close()
    return found


def assert_same(one: Ranking, other: Ranking) -> None:
    for mine, theirs in zip(one.items, other.items, strict=True):
        assert (mine.item_id, mine.persona) == (theirs.item_id, theirs.persona)
        assert mine.score == pytest.approx(theirs.score, abs=1e-5)
        assert [each.item_id for each in mine.because] == [each.item_id for each in theirs.because]


def test_an_interaction_is_answered_for_and_counts_once(address: str) -> None:
    first = post(address, "ada", "ships", 10, rating=5, text="My review.")
    assert (first["new"], first["aspects"]) == (True, "no_llm")
    assert not post(address, "ada", "ships", 10, rating=5, text="My review.")["new"]
    assert post(address, "ada", "nowhere", 11)["encoded"] is False, "nothing is told of that item"
    known = get(address, "/v1/users/ada").json()
    assert [(one["item_id"], one["encoded"]) for one in known["history"]] == [
        ("nowhere", False),
        ("ships", True),
    ]
    assert rerank(address, {"user_id": "ada", "candidates": ALL})[0]["personalized"]
    assert get(address, "/v1/users/nobody").status_code == 404


READ, WRITE = "Points/QueryBatch", "Points/Upsert"


def test_calls_of_an_interaction_on_a_server(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    """Item, what is known of the user, interaction, vectors, and the read-back."""
    settings = on_server(qdrant_server, collection_name)
    make_index(settings)
    five = ["Points/Scroll", READ, WRITE, WRITE, READ]

    def calls_of(address: str, item_id: str, timestamp: int) -> list[str]:
        with grpc_calls() as calls:
            post(address, "ada", item_id, timestamp, rating=5, text="My review.")
        return sorted(calls)

    with running(make_app(with_service(settings), HashEncoder(DIMENSION))) as address:
        for timestamp, item_id in enumerate(["ships", "roses", "cakes"]):
            assert calls_of(address, item_id, timestamp) == sorted(five)
        assert calls_of(address, "cakes", 2) == sorted([READ, WRITE, READ]), "it is known"
        store_of(settings, OTHER).close()
        more = sorted([*five, "Points/Delete"])
        assert calls_of(address, "trains", 3) == more, "one for each other version"
        qdrant_server.request("DELETE", f"/collections/{collection_name}-{OTHER.fingerprint}-users")
        calls_of(address, "trains", 4)
        assert calls_of(address, "trains", 5) == sorted(five), "the other version is gone"
    with running(make_app(with_service(settings), HashEncoder(DIMENSION))) as address:
        more = sorted([*five, "Points/Get"])
        assert calls_of(address, "ships", 6) == more, "the first of a user since the start"
        assert calls_of(address, "roses", 7) == sorted(five)


@pytest.mark.parametrize(
    ("timestamp", "said"),
    [
        (int(time.time()) + 86_400, "is in the future"),
        (int(time.time() * 1000), "it looks like milliseconds"),
        (-1, "greater than or equal to 0"),
        ("yesterday", "valid integer"),
        (2**70, "timestamp"),
    ],
    ids=["future", "milliseconds", "negative", "text", "large"],
)
def test_times_that_cannot_be(address: str, timestamp: Any, said: str) -> None:
    answer = httpx2.post(
        f"{address}/v1/users/ada/interactions",
        json={"item_id": "ships", "timestamp": timestamp},
        headers=AS_ADMIN,
    )
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert get(address, "/v1/users/ada").status_code == 404


def test_old_interactions_take_their_place_in_time(address: str) -> None:
    post(address, "ada", "ships", 1_700_000_000)
    post(address, "ada", "cakes", 0)
    assert [one["item_id"] for one in get(address, "/v1/users/ada").json()["history"]] == [
        "ships",
        "cakes",
    ]


def test_a_user_takes_everything_along_and_leaves(address: str) -> None:
    path = "/v1/users/a%2Fda%20%F0%9F%98%80"
    post(address, "a%2Fda%20%F0%9F%98%80", "ships", 10, rating=5, title="Fine", text="I sailed.")
    lines = get(address, f"{path}/export").text.splitlines()
    [line] = [json.loads(line) for line in lines]
    assert (line["item_id"], line["review_text"], line["summary"]) == (
        "ships",
        "I sailed.",
        "All about ships.",
    )
    erased = httpx2.delete(f"{address}{path}", headers=AS_ADMIN)
    assert erased.json() == {"user_id": "a/da 😀", "erased": 1}
    assert get(address, path).status_code == 404
    assert get(address, f"{path}/export").text == ""
    [ranking] = rerank(address, {"user_id": "a/da 😀", "candidates": ALL})
    assert not ranking["personalized"]


def test_users_are_the_admins_business(address: str) -> None:
    for method, path in [
        ("POST", "/v1/users/ada/interactions"),
        ("GET", "/v1/users/ada"),
        ("GET", "/v1/users/ada/export"),
        ("DELETE", "/v1/users/ada"),
    ]:
        body = {"item_id": "ships", "timestamp": 1} if method == "POST" else None
        answer = httpx2.request(method, address + path, json=body, headers=AS_READER)
        assert answer.status_code == 403


def test_a_user_of_another_encoder_is_encoded_anew_once(
    index_settings: Settings, encoder: HashEncoder
) -> None:
    make_index(index_settings)
    store = store_of(index_settings, OTHER)
    old = StoredInteraction("ada", "roses", 1, title="Roses", summary="All about roses.")
    store.add(old.encoded(np.ones(24, np.float32)))
    store.close()
    with running(make_app(with_service(index_settings), encoder)) as address:
        [known] = rerank(address, {"user_id": "ada", "candidates": ALL})
        assert encoder.encoded[-1] == "All about roses."
        inline = history("All about roses.")
        assert ids(known) == ids(rerank(address, {"history": inline, "candidates": ALL})[0])
        time.sleep(0.3)
        encoder.encoded.clear()
        [again] = rerank(address, {"user_id": "ada", "candidates": ALL})
        assert ids(again) == ids(known)
        assert encoder.encoded == [], "its vector was kept"


def test_recommendations_come_from_the_whole_catalogue_without_what_was_had(address: str) -> None:
    post(address, "ada", "ships", 10)
    found = get(address, "/v1/recommendations/ada?top=2").json()
    assert found["personalized"]
    assert len(found["items"]) == 2
    assert "ships" not in ids(found)
    assert found["items"][0]["score"] >= found["items"][1]["score"]
    assert found["items"][0]["persona"]["persona_id"].startswith(ids(found)[0])
    assert found["items"][0]["because"][0]["item_id"] == "ships"
    everything = get(address, "/v1/recommendations/ada?top=50").json()
    assert sorted(ids(everything)) == ["cakes", "roses", "trains"]
    post(address, "ada", "roses", 11)
    assert sorted(ids(get(address, "/v1/recommendations/ada").json())) == ["cakes", "trains"]
    filtered = get(address, "/v1/recommendations/ada?filter=%7B%22shelf%22%3A%20%22t%22%7D").json()
    assert ids(filtered) == ["trains"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("nobody", 404, "is unknown"),
        ("ada?top=0", 422, "top"),
        ("ada?top=x", 422, "top"),
        ("ada?filter=x", 422, "send a JSON object"),
        ("ada?filter=%5B%5D", 422, "send a JSON object"),
        ("ada?filter=%7B%22a%20b%22%3A1%7D", 422, "filter on 'a b'"),
    ],
)
def test_recommendations_that_cannot_be(address: str, path: str, status: int, said: str) -> None:
    post(address, "ada", "ships", 10)
    answer = get(address, f"/v1/recommendations/{path}")
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
