"""The LangChain adapters with the real library: in this process, and over HTTP."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.prompts import PromptTemplate, format_document
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import ValidationError

from p4r_qdrant import Interaction, PersonaReranker
from p4r_qdrant.client import AsyncClient, Client, ServiceRefusedError
from p4r_qdrant.errors import InputError
from p4r_qdrant.frameworks.langchain import PersonaCompressor, PersonaRetriever
from p4r_qdrant.schemas.reranking import RankingAnswer
from p4r_qdrant.settings import RerankSettings
from tests.support.serving import ADMIN, DIMENSION

ROSES = [Interaction("garden", 1, summary="old roses, a garden", title="My Garden")]


def documents(*item_ids: Any, **more: Any) -> list[Document]:
    return [
        Document(f"Text {place}.", metadata={"item_id": one, **more})
        for place, one in enumerate(item_ids)
    ]


def texts(found: list[Document]) -> list[str]:
    return [one.page_content for one in found]


def ids(found: Any) -> list[str]:
    return [one.metadata["item_id"] for one in found]


# --- reranking ---------------------------------------------------------------------------------


def test_documents_are_reranked_and_say_why(reranker: Any) -> None:
    given = documents("ships", "cakes", "roses", source="shop")
    before = [one.model_copy(deep=True) for one in given]
    found = PersonaCompressor(reranker=reranker, user=ROSES).compress_documents(given, "a gift")
    expected = reranker.rerank(ROSES, ["ships", "cakes", "roses"]).items
    assert ids(found) == [one.item_id for one in expected]
    assert given == before, "the documents given are not changed"
    first = found[0]
    assert (first.page_content, first.metadata["source"]) == ("Text 2.", "shop")
    assert (first.metadata["p4r_rank"], first.metadata["p4r_degraded"]) == (1, None)
    assert first.metadata["p4r_score"] == pytest.approx(expected[0].score)
    assert first.metadata["p4r_persona"].startswith("Reader of roses")
    assert first.metadata["p4r_persona_id"].startswith("roses_P")
    assert "It is about" in first.metadata["p4r_explanation"]
    [because] = first.metadata["p4r_because"]
    assert (because["item_id"], because["title"]) == ("garden", "My Garden")
    assert because["share"] == pytest.approx(1.0)
    json.dumps([one.metadata for one in found])


def test_an_explanation_goes_into_a_prompt(reranker: Any) -> None:
    compressor = PersonaCompressor(reranker=reranker, user=ROSES, explain=1)
    found = compressor.compress_documents(documents("ships", "roses", "nowhere"), "")
    template = PromptTemplate.from_template("{page_content} ({p4r_explanation})")
    told = [format_document(one, template) for one in found]
    assert told[0].startswith("Text 1. (Reader of roses")
    assert told[1:] == ["Text 0. ()", "Text 2. ()"]


def test_documents_of_one_item_stay_together(reranker: Any) -> None:
    given = documents("ships", "roses", "cakes", "roses", "ships")
    compressor = PersonaCompressor(reranker=reranker, user=ROSES)
    found = compressor.compress_documents(given, "")
    assert [one.page_content for one in found[:2]] == ["Text 1.", "Text 3."]
    assert sorted(ids(found)) == sorted(ids(given))
    assert [one.metadata["p4r_rank"] for one in found] == sorted(
        one.metadata["p4r_rank"] for one in found
    )
    assert ids(compressor.model_copy(update={"top": 1}).compress_documents(given, "")) == ["roses"]
    assert len(compressor.model_copy(update={"top": 3}).compress_documents(given, "")) == 3


def test_items_without_personas_keep_their_order_behind_the_others(reranker: Any) -> None:
    given = documents("n2", "n1", "roses")
    found = PersonaCompressor(reranker=reranker, user=ROSES).compress_documents(given, "")
    assert ids(found) == ["roses", "n2", "n1"]
    assert [one.metadata["p4r_score"] is None for one in found] == [False, True, True]
    assert found[1].metadata["p4r_persona"] is None


def test_nothing_is_asked_about_nothing() -> None:
    nobody = Client("http://127.0.0.1:1")
    assert PersonaCompressor(reranker=nobody).compress_documents([], "") == []


@pytest.mark.parametrize("wrong", [{}, {"item_id": None}, {"item_id": 1.5}, {"item_id": ""}])
def test_a_document_without_an_item_id(reranker: Any, wrong: dict[str, Any]) -> None:
    given = [*documents("roses"), Document("x", metadata={**wrong, "source": "faq"})]
    with pytest.raises(
        InputError, match=r"document 1 has no item id: 'item_id' .* is .* \(.*'source'\)"
    ):
        PersonaCompressor(reranker=reranker, user=ROSES).compress_documents(given, "")


def test_ids_under_another_key_and_as_numbers(reranker: Any) -> None:
    given = [
        Document("x", metadata={"sku": np.int64(17)}),
        Document("y", metadata={"sku": "roses"}),
    ]
    compressor = PersonaCompressor(reranker=reranker, user=ROSES, item_key="sku")
    found = compressor.compress_documents(given, "")
    assert [one.metadata["sku"] for one in found] == ["roses", 17]


def test_whom_a_query_stands_for(reranker: Any) -> None:
    given = documents("ships", "roses")
    wishes = PersonaCompressor(
        reranker=reranker, user=lambda wish: [Interaction("wish", 0, summary=wish)]
    )
    assert ids(wishes.compress_documents(given, "old roses"))[0] == "roses"
    assert ids(wishes.compress_documents(given, "tall ships"))[0] == "ships"
    vectors = PersonaCompressor(reranker=reranker, user=np.ones(DIMENSION, np.float32))
    assert vectors.compress_documents(given, "")[0].metadata["p4r_score"] is not None
    nobody = PersonaCompressor(reranker=reranker, user=lambda _: None)
    found = nobody.compress_documents(given, "x")
    assert ids(found) == ["ships", "roses"]
    assert found[0].metadata["p4r_score"] is None
    with pytest.raises(InputError, match="there is no query to take the user id from"):
        nobody.compress_documents(given, "")


def test_a_user_id_needs_a_service(here: PersonaReranker, client: Client) -> None:
    given = documents("roses", "ships")
    found = PersonaCompressor(reranker=client).compress_documents(given, "eve")
    assert ids(found) == ["ships", "roses"]
    with pytest.raises(InputError, match="cannot look up the user id 'eve'"):
        PersonaCompressor(reranker=here).compress_documents(given, "eve")


def test_filter_and_fusion(reranker: Any) -> None:
    scores = {"ships": 9, "cakes": 5.5, "roses": 1}
    given = [
        Document(one, metadata={"item_id": one, "bm25": score}) for one, score in scores.items()
    ]
    compressor = PersonaCompressor(
        reranker=reranker,
        user=ROSES,
        fusion=RerankSettings(fusion="weighted", weight=0.0),
        score_key="bm25",
    )
    found = compressor.compress_documents(given, "")
    assert ids(found) == list(scores)
    assert [one.metadata["p4r_score"] for one in found] == pytest.approx([1.0, 4.5 / 8, 0.0])
    alone = PersonaCompressor(reranker=reranker, user=ROSES, filter={"shelf": "c"})
    assert ids(alone.compress_documents(given, "")) == ["cakes"]
    given[1].metadata["bm25"] = "high"
    with pytest.raises(InputError, match=r"the score of document 1 \('bm25'.*'high'"):
        compressor.compress_documents(given, "")
    del given[1].metadata["bm25"]
    with pytest.raises(InputError, match="weighted fusion needs"):
        compressor.compress_documents(given, "")


def test_a_service_that_cannot_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"score": None, "persona_score": None, "generator_score": None}
    items = [
        {"item_id": one, "rank": rank, "generator_rank": rank, **told}
        for rank, one in enumerate(["ships", "roses"], start=1)
    ]
    answer = RankingAnswer.model_validate(
        {
            "user_id": None,
            "personalized": False,
            "degraded": True,
            "reason": "deadline",
            "items": items,
        }
    )
    monkeypatch.setattr(Client, "rerank", lambda *_, **__: answer)
    given = documents("ships", "roses")
    found = PersonaCompressor(reranker=client, user=ROSES).compress_documents(given, "")
    assert ids(found) == ["ships", "roses"]
    assert {one.metadata["p4r_degraded"] for one in found} == {"deadline"}


# --- the whole catalogue -----------------------------------------------------------------------


def test_retrieval_in_this_process(here: PersonaReranker) -> None:
    had = [Interaction("roses", 1, summary="old roses, a garden")]
    found = PersonaRetriever(reranker=here, user=had, top=3).invoke("anything")
    assert sorted(ids(found)) == ["cakes", "ships", "trains"], "what was had is not recommended"
    found = PersonaRetriever(reranker=here, user=ROSES, top=2).invoke("anything")
    assert (ids(found)[0], len(found)) == ("roses", 2)
    assert found[0].id == "roses"
    assert found[0].page_content.startswith("Roses\nReader of roses")
    assert found[0].metadata["p4r_because"][0]["item_id"] == "garden"
    vector = np.ones(DIMENSION, np.float32)
    assert len(PersonaRetriever(reranker=here, user=vector, top=2).invoke("anything")) == 2
    assert PersonaRetriever(reranker=here, user=[]).invoke("anything") == []
    shelf = PersonaRetriever(reranker=here, user=ROSES, filter={"shelf": "t"}).invoke("anything")
    assert ids(shelf) == ["trains"]


def test_retrieval_over_http(client: Client, here: PersonaReranker) -> None:
    found = PersonaRetriever(reranker=client, top=2).invoke("eve")
    assert len(found) == 2
    assert "ships" not in ids(found)
    assert found[0].page_content.split("\n")[0] == ids(found)[0].title()
    assert ids(found) == [one.item_id for one in client.recommend("eve", 2).items]
    assert ids(PersonaRetriever(reranker=client, user="eve", top=2).invoke("?")) == ids(found)
    with pytest.raises(ServiceRefusedError, match="'nobody' is unknown"):
        PersonaRetriever(reranker=client).invoke("nobody")
    instead = PersonaRetriever(reranker=here, user=ROSES, top=1)
    assert ids(PersonaRetriever(reranker=client).with_fallbacks([instead]).invoke("nobody")) == [
        "roses"
    ]
    with pytest.raises(InputError, match="pass a user id, or retrieve with a PersonaReranker"):
        PersonaRetriever(reranker=client, user=ROSES).invoke("?")


def test_nothing_is_recommended_to_somebody_unknown(reranker: Any) -> None:
    assert PersonaRetriever(reranker=reranker, user=lambda _: None).invoke("x") == []


def test_the_items_own_texts(here: PersonaReranker) -> None:
    retriever = PersonaRetriever(
        reranker=here, user=ROSES, top=1, text_of=lambda item_id: f"<{item_id}>", item_key="sku"
    )
    [found] = retriever.invoke("?")
    assert (found.page_content, found.metadata["sku"]) == ("<roses>", "roses")
    assert "Reader of roses" in found.metadata["p4r_explanation"]


def test_a_user_for_each_call_and_a_chain(here: PersonaReranker) -> None:
    retriever = PersonaRetriever(reranker=here, top=1).configurable_fields(
        user=ConfigurableField(id="user")
    )
    chain = retriever | RunnableLambda(texts)
    for text, item_id in [("tall ships", "Ships"), ("sponge cakes", "Cakes")]:
        user = [Interaction("i", 1, summary=text)]
        [said] = chain.invoke("?", config={"configurable": {"user": user}})
        assert said.startswith(item_id)
    fixed = PersonaRetriever(reranker=here, user=ROSES, top=1)
    assert [ids(one) for one in fixed.batch(["a", "b"])] == [["roses"], ["roses"]]


# --- asynchronously ----------------------------------------------------------------------------


def test_the_same_asynchronously(places: tuple[PersonaReranker, str], client: Client) -> None:
    here, address = places
    given = documents("ships", "cakes", "roses")

    async def go() -> None:
        async with AsyncClient(address, key=ADMIN) as asynchronous:
            for reranker in (here, client, asynchronous):
                compressor = PersonaCompressor(reranker=reranker, user=ROSES)
                found = await compressor.acompress_documents(given, "")
                expected = PersonaCompressor(reranker=here, user=ROSES).compress_documents(
                    given, ""
                )
                assert ids(found) == ids(expected)
                assert await compressor.acompress_documents([], "") == []
            for reranker in (client, asynchronous):
                found = await PersonaRetriever(reranker=reranker, top=2).ainvoke("eve")
                assert ids(found) == ids(PersonaRetriever(reranker=client, top=2).invoke("eve"))
            unknown = PersonaRetriever(reranker=asynchronous, user=lambda _: None)
            assert await unknown.ainvoke("x") == []
            found = await PersonaRetriever(reranker=here, user=ROSES, top=1).ainvoke("?")
            assert ids(found) == ["roses"]
            with pytest.raises(InputError, match="works with the async methods only"):
                PersonaRetriever(reranker=asynchronous).invoke("eve")
            with pytest.raises(InputError, match="works with the async methods only"):
                PersonaCompressor(reranker=asynchronous).compress_documents(given, "eve")

    asyncio.run(go())


# --- what cannot be --------------------------------------------------------------------------


def test_what_is_no_reranker_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="PersonaReranker"):
        PersonaCompressor(reranker="http://localhost:8000")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        PersonaRetriever(reranker=Client("http://127.0.0.1:1"), top=0)


def test_without_the_library() -> None:
    code = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "from p4r_qdrant.errors import MissingExtraError\n"
        "try:\n    import p4r_qdrant.frameworks.langchain\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        "this adapter needs langchain-core: pip install 'p4r-qdrant[langchain]'"
    )
