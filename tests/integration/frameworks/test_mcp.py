"""The MCP server, asked by the official client over HTTP and over stdio."""

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mcp")

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from p4r_qdrant.client import Client as ServiceClient
from p4r_qdrant.frameworks.mcp import make_server
from tests.support.engines import embedded
from tests.support.paths import ROOT
from tests.support.serving import ADMIN, READER, make_app, make_index, running, with_service

TOOLS = {"search_by_person", "recommend", "rerank", "explain", "personas_of"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = embedded(tmp_path_factory.mktemp("mcp") / "index")
    make_index(base)
    with running(make_app(with_service(base))) as address:
        with ServiceClient(address, key=ADMIN) as client:
            client.interact("ada", "roses", 1, rating=5, text="pruning old roses")
        yield address


def ask(server: Any, tool: str, **arguments: Any) -> Any:
    async def go() -> Any:
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(go())


def answer(server: Any, tool: str, **arguments: Any) -> Any:
    result = ask(server, tool, **arguments)
    assert not result.is_error, result.content
    return result.structured_content


def refusal(server: Any, tool: str, **arguments: Any) -> str:
    result = ask(server, tool, **arguments)
    assert result.is_error
    assert "Traceback" not in result.content[0].text
    return str(result.content[0].text)


def test_the_tools_read_and_describe_themselves(address: str) -> None:
    async def go() -> Any:
        async with Client(make_server(address, READER)) as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(go())
    assert {one.name for one in tools} == TOOLS
    for one in tools:
        assert one.annotations.read_only_hint
        assert one.description.endswith(".")


def test_every_tool_answers(address: str) -> None:
    server = make_server(address, READER)
    found = answer(server, "search_by_person", description="old roses", top=1)
    assert [one["item_id"] for one in found["items"]] == ["roses"]
    filtered = answer(
        server, "search_by_person", description="old roses", filter={"shelf": {"not": "r"}}
    )
    assert "roses" not in {one["item_id"] for one in filtered["items"]}
    ranking = answer(server, "rerank", user_id="ada", candidates=["ships", "roses"])
    assert [one["item_id"] for one in ranking["items"]] == ["roses", "ships"]
    ranking = answer(server, "rerank", history=["tall ships"], candidates=["roses", "ships"])
    assert [one["item_id"] for one in ranking["items"]] == ["ships", "roses"]
    recommended = answer(server, "recommend", user_id="ada", top=2)
    assert "roses" not in {one["item_id"] for one in recommended["items"]}
    why = answer(server, "explain", user_id="ada", item_id="ships")
    assert why["persona"]["persona_id"].startswith("ships_")
    assert why["because"][0]["item_id"] == "roses"
    personas = answer(server, "personas_of", item_id="trains")
    assert personas["personas"][0]["persona_id"] == "trains_P0"


def test_mistakes_are_sentences(address: str) -> None:
    server = make_server(address, READER)
    assert "not in the index" in refusal(server, "personas_of", item_id="no/such\u202eitem")
    assert "unknown" in refusal(server, "recommend", user_id="nobody")
    assert "nothing is known of user" in refusal(server, "explain", user_id="x", item_id="ships")
    assert "either user_id or history" in refusal(server, "rerank", candidates=["ships"])
    assert "top" in refusal(server, "search_by_person", description="x", top=10_000)
    assert "a field to filter on" in refusal(
        server, "search_by_person", description="x", filter={"?": 1}
    )
    wrong_key = make_server(address, "wrong")
    assert "P4R_SERVICE__API_KEY" in refusal(wrong_key, "personas_of", item_id="ships")
    nobody_there = make_server("http://127.0.0.1:9", READER)
    assert "cannot be reached" in refusal(nobody_there, "personas_of", item_id="ships")


def test_over_stdio_the_key_is_in_the_environment(address: str) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-W", "error", "-m", "p4r_qdrant", "mcp", "--url", address],
        env={**os.environ, "PYTHONPATH": str(ROOT), "P4R_SERVICE__API_KEY": READER},
        cwd=str(ROOT),
    )
    found = answer(server, "search_by_person", description="night trains", top=1)
    assert found["items"][0]["item_id"] == "trains"


def test_over_http_each_caller_has_its_own_key(address: str) -> None:
    app = make_server(address).streamable_http_app(stateless_http=True)

    async def ask_with(key: str | None) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, headers=headers) as http:
            place = streamable_http_client("http://127.0.0.1:8001/mcp", http_client=http)
            async with Client(place) as client:
                return await client.call_tool("personas_of", {"item_id": "ships"})

    async def go() -> list[Any]:
        async with app.router.lifespan_context(app):
            return [await ask_with(key) for key in (READER, None, "wrong")]

    right, missing, wrong = asyncio.run(go())
    assert right.structured_content["item_id"] == "ships"
    assert missing.is_error
    assert wrong.is_error
    assert "API key" in missing.content[0].text
