"""The client against a real service, sync and async."""

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from p4r_qdrant import Candidate, Interaction
from p4r_qdrant.client import AsyncClient, Client, ServiceDownError, ServiceRefusedError
from p4r_qdrant.settings import RerankSettings
from tests.support.engines import embedded
from tests.support.serving import (
    ADMIN,
    CATALOGUE,
    DIMENSION,
    READER,
    make_app,
    make_index,
    persona,
    running,
    with_service,
)

ALL = list(CATALOGUE)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = embedded(tmp_path_factory.mktemp("client") / "index")
    make_index(base)
    with running(make_app(with_service(base))) as address:
        yield address


def test_users_in_every_form(address: str) -> None:
    with Client(address, key=READER) as client:
        told = [Interaction("i", 1, summary="old roses", aspects={"a": "roses", "b": None})]
        answer = client.rerank(told, ["ships", ("roses", 0.5), Candidate(item_id="cakes")])
        assert answer.items[0].item_id == "roses"
        assert answer.items[0].persona is not None
        assert answer.items[0].because[0].item_id == "i"
        assert answer.items[0].generator_score == 0.5
        vector = np.ones(DIMENSION, dtype=np.float32)
        both = client.rerank_many([vector, None, "nobody"], [ALL, ALL, ALL], top=2)
        assert [one.personalized for one in both.rankings] == [True, False, False]
        assert [len(one.items) for one in both.rankings] == [2, 2, 2]
        scored = [(one, 9.0 - place) for place, one in enumerate(ALL)]
        fused = client.rerank(told, scored, rerank=RerankSettings(fusion="weighted", weight=0.0))
        assert [one.item_id for one in fused.items] == ALL
        assert client.rerank(told, ALL, filter={"shelf": "s"}).items[0].item_id == "ships"
        assert client.rerank(told, ALL, min_score=2.0).items == []


def test_a_described_person_finds_items(address: str) -> None:
    with Client(address, key=READER) as client:
        found = client.search("old roses in a walled garden", 2).items
        assert found[0].item_id == "roses"
        assert found[0].score > found[1].score
        assert found[0].persona.persona_id.startswith("roses_")
        assert found[0].item_title == "Roses"
        kept = client.search("old roses", filter={"shelf": {"not": "r"}}).items
        assert {one.item_id for one in kept} == {"ships", "cakes", "trains"}
        for wrong in ({"text": " "}, {"text": "x", "filter": {"nobody knows": 1}}):
            with pytest.raises(ServiceRefusedError) as refused:
                client.search(wrong["text"], filter=wrong.get("filter"))  # type: ignore[arg-type]
            assert refused.value.status == 422


def test_why_an_item_is_not_among_the_first(address: str) -> None:
    history = [
        Interaction("i", 1, summary="tall ships under sail"),
        Interaction("j", 2, summary="pruning old roses"),
    ]
    with Client(address, key=READER) as client:
        found = client.why_not(history, "ships", ALL, 1)
        assert found.threshold is not None
        assert found.threshold.item_id == "roses"
        assert found.change is not None
        assert (found.change.item_id, found.change.adds, found.change.rank) == ("j", False, 1)
        by_generator = RerankSettings(fusion="weighted", weight=0.0)
        scored = [(one, 9.0 - place) for place, one in enumerate(ALL)]
        assert client.why_not(history, "ships", scored, 1, rerank=by_generator).threshold is None
        with pytest.raises(ServiceRefusedError) as refused:
            client.why_not(history, "ships", ALL, 1, additions=21)
        assert refused.value.status == 422


def test_items_and_users(address: str) -> None:
    with Client(address, key=ADMIN) as client:
        client.put_item("a/b", [persona("a/b", 1, "moss on stones")], title="Moss", fields={"n": 1})
        assert client.personas("a/b").fields["n"] == 1
        assert client.interact("u/1", "a/b", 5).new
        assert client.user("u/1").history[0].item_id == "a/b"
        assert client.rerank("u/1", ["ships", "a/b"]).items[0].item_id == "a/b"
        assert [one.item_id for one in client.export("u/1")] == ["a/b"]
        found = client.recommend("u/1", 3, filter={"shelf": {"not": "r"}})
        assert {one.item_id for one in found.items} <= {"ships", "cakes", "trains"}
        assert client.erase("u/1").erased == 1
        assert client.delete_item("a/b").deleted == "a/b"
        with pytest.raises(ServiceRefusedError, match="not in the index") as refused:
            client.personas("a/b")
        assert (refused.value.status, refused.value.code) == (404, "unknown_item")


def test_the_same_with_asyncio(address: str) -> None:
    async def go() -> None:
        async with AsyncClient(address, key=ADMIN) as client:
            searched = await client.search("night trains", 1)
            assert [one.item_id for one in searched.items] == ["trains"]
            told = [Interaction("i", 1, summary="night trains")]
            answers = await asyncio.gather(*(client.rerank(told, ALL) for _ in range(5)))
            assert {one.items[0].item_id for one in answers} == {"trains"}
            await client.put_item("moss", [persona("moss", 1, "moss")], title="Moss")
            await client.interact("eve", "ships", 5, rating=4, text="I sailed.")
            assert (await client.user("eve")).history[0].rating == 4
            assert (await client.export("eve"))[0].review_text == "I sailed."
            why = await client.why_not("eve", "roses", ALL, 1)
            assert why.threshold is not None
            assert why.threshold.item_id == "ships"
            found = await client.recommend("eve", 2)
            assert "ships" not in [one.item_id for one in found.items]
            assert (await client.erase("eve")).erased == 1
            assert (await client.personas("moss")).item_id == "moss"
            await client.delete_item("moss")
            with pytest.raises(ServiceRefusedError):
                await client.rerank([1.0], ALL)

    asyncio.run(go())


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


BUSY = (429, {"Retry-After": "0.05"}, b'{"error": {"code": "busy", "message": "too much"}}')
GOOD: tuple[int, dict[str, str], bytes] = (
    200,
    {},
    b'{"item_id": "x", "personas": [], "fields": {}}',
)


def test_who_is_busy_is_asked_again() -> None:
    with scripted(BUSY, (502, {}, b"<html>"), GOOD) as (url, asked), Client(url) as client:
        assert client.personas("x").item_id == "x"
        assert len(asked) == 3


def test_who_stays_busy_is_left_alone() -> None:
    with (
        scripted(BUSY) as (url, asked),
        Client(url, attempts=2) as client,
        pytest.raises(ServiceDownError, match="too much"),
    ):
        client.personas("x")
    assert len(asked) == 2


def test_what_is_no_service_of_ours() -> None:
    with (
        scripted((200, {}, b"<html>hello</html>")) as (url, _),
        Client(url) as client,
        pytest.raises(ServiceDownError, match="does not answer like `p4r serve`"),
    ):
        client.personas("x")


def test_nobody_there() -> None:
    with (
        Client("http://127.0.0.1:1", attempts=2) as client,
        pytest.raises(ServiceDownError, match=":1 cannot be reached; check the address"),
    ):
        client.personas("x")


def test_who_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(url, attempts=1, timeout_s=0.05) as client,
            pytest.raises(ServiceDownError, match=f"{url} did not answer in time"),
        ):
            client.personas("x")
