"""The LlamaIndex adapters with the real library: in this process, and over HTTP."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import ValidationError

from p4r_qdrant import Interaction, PersonaReranker
from p4r_qdrant.client import AsyncClient, Client, ServiceRefusedError
from p4r_qdrant.errors import InputError
from p4r_qdrant.frameworks.llamaindex import PersonaPostprocessor, PersonaRetriever
from p4r_qdrant.settings import RerankSettings
from tests.support.serving import ADMIN, DIMENSION

ROSES = [Interaction("garden", 1, summary="old roses, a garden", title="My Garden")]


def nodes(*item_ids: Any, score: float | None = 0.5) -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(text=f"Text {place}.", metadata={"item_id": one, "source": "shop"}),
            score=score,
        )
        for place, one in enumerate(item_ids)
    ]


def ids(found: Any) -> list[str]:
    return [one.node.metadata["item_id"] for one in found]


# --- reranking ---------------------------------------------------------------------------------


def test_nodes_are_reranked_and_say_why(reranker: Any) -> None:
    given = nodes("ships", "cakes", "roses")
    before = [one.model_dump() for one in given]
    found = PersonaPostprocessor(reranker=reranker, user=ROSES).postprocess_nodes(
        given, query_str="a gift"
    )
    expected = reranker.rerank(ROSES, ["ships", "cakes", "roses"]).items
    assert ids(found) == [one.item_id for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected])
    assert [one.model_dump() for one in given] == before, "the nodes given are not changed"
    first = found[0].node
    assert (first.node_id, first.metadata["source"]) == (given[2].node.node_id, "shop")
    assert first.metadata["p4r_persona"].startswith("Reader of roses")
    assert first.metadata["p4r_because"][0]["item_id"] == "garden"


def test_an_llm_is_shown_the_explanation_alone(reranker: Any) -> None:
    given = nodes("ships", "roses")
    given[1].node.excluded_llm_metadata_keys = ["source"]
    postprocessor = PersonaPostprocessor(reranker=reranker, user=ROSES, explain=1)
    first, second = postprocessor.postprocess_nodes(given)
    shown = first.node.get_content(MetadataMode.LLM)
    assert "p4r_explanation: Reader of roses" in shown
    assert shown.count("p4r_") == 1
    assert "source" not in shown
    assert "p4r_" not in second.node.get_content(MetadataMode.LLM)
    assert "p4r_" not in first.node.get_content(MetadataMode.EMBED)


def test_nodes_of_one_item_and_of_items_without_personas(reranker: Any) -> None:
    given = nodes("n2", "roses", "n1", "roses", "n2", 17)
    postprocessor = PersonaPostprocessor(reranker=reranker, user=ROSES)
    found = postprocessor.postprocess_nodes(given)
    assert ids(found) == ["roses", "roses", "n2", "n2", "n1", 17]
    assert [one.node.get_content() for one in found[:2]] == ["Text 1.", "Text 3."]
    assert [one.score is None for one in found] == [False, False, True, True, True, True]
    assert ids(SimilarityPostprocessor(similarity_cutoff=0.0).postprocess_nodes(found)) == ids(
        found[:2]
    )
    assert ids(
        PersonaPostprocessor(reranker=reranker, user=ROSES, top=1).postprocess_nodes(given)
    ) == ["roses"]


def test_nothing_is_asked_about_nothing() -> None:
    nobody = Client("http://127.0.0.1:1")
    assert PersonaPostprocessor(reranker=nobody).postprocess_nodes([]) == []


def test_users_are_not_serialized(client: Client) -> None:
    saved = PersonaPostprocessor(reranker=client, user=ROSES, top=3).to_json()
    assert json.loads(saved)["top"] == 3
    assert "roses" not in saved


def test_a_node_without_an_item_id(reranker: Any) -> None:
    given = [*nodes("roses"), NodeWithScore(node=TextNode(text="x"))]
    with pytest.raises(
        InputError, match=r"document 1 has no item id: 'item_id' .* is None; .*nothing"
    ):
        PersonaPostprocessor(reranker=reranker, user=ROSES).postprocess_nodes(given)


def test_whom_a_query_stands_for(reranker: Any, client: Client) -> None:
    given = nodes("roses", "ships")
    wishes = PersonaPostprocessor(
        reranker=reranker, user=lambda wish: [Interaction("wish", 0, summary=wish)]
    )
    assert ids(wishes.postprocess_nodes(given, query_str="tall ships"))[0] == "ships"
    # What another model made of the query says nothing here.
    bundle = QueryBundle("tall ships", embedding=[1.0] * DIMENSION)
    assert ids(wishes.postprocess_nodes(given, bundle))[0] == "ships"
    with pytest.raises(InputError, match="there is no query to take the user id from"):
        wishes.postprocess_nodes(given)
    known = PersonaPostprocessor(reranker=client)
    assert ids(known.postprocess_nodes(given, query_str="eve")) == ["ships", "roses"]


def test_fusion_and_filter(reranker: Any) -> None:
    given = nodes("ships", score=9.0) + nodes("cakes", score=5.5) + nodes("roses", score=1.0)
    fusion = RerankSettings(fusion="weighted", weight=0.0)
    postprocessor = PersonaPostprocessor(reranker=reranker, user=ROSES, fusion=fusion)
    found = postprocessor.postprocess_nodes(given)
    assert [one.score for one in found] == pytest.approx([1.0, 4.5 / 8, 0.0])
    shelf = PersonaPostprocessor(reranker=reranker, user=ROSES, filter={"shelf": "c"})
    assert ids(shelf.postprocess_nodes(given)) == ["cakes"]
    given[1].score = None
    with pytest.raises(InputError, match="weighted fusion needs"):
        postprocessor.postprocess_nodes(given)


# --- the whole catalogue -----------------------------------------------------------------------


def test_retrieval_in_this_process(here: PersonaReranker) -> None:
    had = [Interaction("roses", 1, summary="old roses, a garden")]
    found = PersonaRetriever(here, had, top=3).retrieve("anything")
    assert sorted(ids(found)) == ["cakes", "ships", "trains"], "what was had is not recommended"
    found = PersonaRetriever(here, ROSES, top=2, item_key="item_id").retrieve("anything")
    assert (ids(found)[0], len(found)) == ("roses", 2)
    first = found[0]
    assert (first.node.node_id, first.score) == ("roses", first.node.metadata["p4r_score"])
    shown = first.node.get_content(MetadataMode.LLM)
    assert "Roses\nReader of roses" in shown
    assert "p4r_" not in shown, "the text is the explanation already"
    shelf = PersonaRetriever(here, ROSES, filter={"shelf": "t"}).retrieve("anything")
    assert ids(shelf) == ["trains"]
    assert PersonaRetriever(here, lambda _: None).retrieve("x") == []


def test_the_items_own_texts(here: PersonaReranker) -> None:
    retriever = PersonaRetriever(here, ROSES, top=1, text_of=lambda one: f"<{one}>", item_key="sku")
    [found] = retriever.retrieve("?")
    assert found.node.metadata["sku"] == "roses"
    shown = found.node.get_content(MetadataMode.LLM)
    assert "<roses>" in shown
    assert "p4r_explanation: Reader of roses" in shown


def test_retrieval_over_http(client: Client) -> None:
    found = PersonaRetriever(client, top=2).retrieve("eve")
    assert ids(found) == [one.item_id for one in client.recommend("eve", 2).items]
    assert found[0].node.get_content().split("\n")[0] == ids(found)[0].title()
    with pytest.raises(ServiceRefusedError, match="'nobody' is unknown"):
        PersonaRetriever(client).retrieve("nobody")


def test_a_query_engine_tells_the_llm_why(here: PersonaReranker, client: Client) -> None:
    engine = RetrieverQueryEngine.from_args(
        PersonaRetriever(client, user="eve", top=3, text_of=lambda one: f"The book of {one}."),
        llm=MockLLM(),  # answers with what it was asked
        node_postprocessors=[PersonaPostprocessor(reranker=here, user=ROSES, top=1)],
    )
    answer = engine.query("Which one, and why?")
    assert ids(answer.source_nodes) == ["roses"]
    assert "The book of roses." in str(answer)
    assert "Reader of roses" in str(answer)
    assert "p4r_score" not in str(answer)


# --- asynchronously ----------------------------------------------------------------------------


def test_the_same_asynchronously(places: tuple[PersonaReranker, str], client: Client) -> None:
    here, address = places
    given = nodes("ships", "cakes", "roses")
    expected = PersonaPostprocessor(reranker=here, user=ROSES).postprocess_nodes(given)

    async def go() -> None:
        async with AsyncClient(address, key=ADMIN) as asynchronous:
            for reranker in (here, client, asynchronous):
                postprocessor = PersonaPostprocessor(reranker=reranker, user=ROSES)
                assert ids(await postprocessor.apostprocess_nodes(given)) == ids(expected)
                assert await postprocessor.apostprocess_nodes([]) == []
            for reranker in (client, asynchronous):
                found = await PersonaRetriever(reranker, top=2).aretrieve("eve")
                assert ids(found) == ids(PersonaRetriever(client, top=2).retrieve("eve"))
            found = await PersonaRetriever(here, ROSES, top=1).aretrieve("?")
            assert ids(found) == ["roses"]
            with pytest.raises(InputError, match="works with the async methods only"):
                PersonaRetriever(asynchronous).retrieve("eve")
            with pytest.raises(InputError, match="works with the async methods only"):
                PersonaPostprocessor(reranker=asynchronous).postprocess_nodes(given)

    asyncio.run(go())


# --- what cannot be ----------------------------------------------------------------------------


def test_what_is_no_reranker_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="PersonaReranker"):
        PersonaPostprocessor(reranker="http://localhost:8000")


def test_without_the_library() -> None:
    code = (
        "import sys; sys.modules['llama_index.core'] = None\n"
        "from p4r_qdrant.errors import MissingExtraError\n"
        "try:\n    import p4r_qdrant.frameworks.llamaindex\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        "this adapter needs llama-index-core: pip install 'p4r-qdrant[llamaindex]'"
    )
