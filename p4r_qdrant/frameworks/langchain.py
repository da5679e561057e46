"""LangChain: a retriever for the whole catalogue, and a document compressor that reranks.

    retriever = PersonaRetriever(reranker=Client("http://localhost:8000", key=KEY))
    documents = retriever.invoke("maren-o")

`reranker` is a `PersonaReranker`, a `Client`, or an `AsyncClient` for the async methods alone.

`user` says for whom: an id (with a client), a history, a vector, or a function from the query to
one of these. Without it the query is the user's id.

The metadata of what comes back tells place, score, persona and explanation: `base.told_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from p4r_qdrant.errors import InputError, MissingExtraError
from p4r_qdrant.frameworks import base
from p4r_qdrant.settings import RerankSettings

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError:
    raise MissingExtraError(
        "this adapter needs langchain-core: pip install 'p4r-qdrant[langchain]'"
    ) from None


class PersonaRetriever(BaseRetriever):
    """The `top` items of the whole catalogue for a user, best first, without those already had.

    A document's text is the item's title and the explanation, or what `text_of` says of the item
    id; its metadata holds the id under `item_key`. Empty for somebody unknown (None); an id that
    the service does not know is a ServiceRefusedError. `filter` as in `PersonaReranker.recommend`.
    """

    reranker: base.Reranker
    user: Any = None
    top: int = Field(10, ge=1)
    filter: dict[str, Any] | None = None
    item_key: str = "item_id"
    text_of: Callable[[str], str] | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = base.recommend(self.reranker, self.user, query, self.top, self.filter)
        return [self._document(item) for item in found]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = await base.arecommend(self.reranker, self.user, query, self.top, self.filter)
        return [self._document(item) for item in found]

    def _document(self, item: base.Ranked) -> Document:
        return Document(
            base.text_of(item, self.text_of),
            id=item.item_id,
            metadata={self.item_key: item.item_id, **base.told_of(item)},
        )


class PersonaCompressor(BaseDocumentCompressor):
    """Reranks documents for a user by the personas of the items they are about.

    A document names its item in its metadata, under `item_key`; one that does not is an
    InputError. Documents of one item stay together; those of items without personas keep their
    order, behind the others. Texts stay as they are, and the documents given are not changed.

    `top`: so many documents. `explain`: the first so many items carry their persona. `score_key`:
    where the metadata hold the generator's score, which `fusion` mixes in. `filter` and `fusion`
    as in `PersonaReranker.rerank`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reranker: base.Reranker
    user: Any = None
    top: int | None = Field(None, ge=1)
    filter: dict[str, Any] | None = None
    explain: int = Field(10, ge=0)
    fusion: RerankSettings | None = None
    item_key: str = "item_id"
    score_key: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents reranked, best first."""
        placed = base.rerank(*self._asked(documents, query), **self._options)
        return [_with(documents[place], told) for place, told in placed]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents reranked, best first."""
        placed = await base.arerank(*self._asked(documents, query), **self._options)
        return [_with(documents[place], told) for place, told in placed]

    def _asked(self, documents: Sequence[Document], query: str) -> tuple[Any, ...]:
        candidates = [
            (base.item_id_of(one.metadata, self.item_key, place), self._score(one, place))
            for place, one in enumerate(documents)
        ]
        return self.reranker, self.user, query, candidates, self.top

    @property
    def _options(self) -> dict[str, Any]:
        return {"filter": self.filter, "explain": self.explain, "rerank": self.fusion}

    def _score(self, document: Document, place: int) -> float | None:
        score = document.metadata.get(self.score_key) if self.score_key else None
        try:
            return None if score is None else float(score)
        except (TypeError, ValueError):
            raise InputError(
                f"the score of document {place} ({self.score_key!r} in its metadata) is no number: "
                f"{score!r}"
            ) from None


def _with(document: Document, told: base.Told) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, **told}})
