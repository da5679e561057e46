"""LangChain adapters: a retriever for the whole catalogue, and a compressor that reranks.

    retriever = PersonaRetriever(reranker=Client("http://localhost:8000", key=KEY))
    documents = retriever.invoke("maren-o")

`reranker` is a `PersonaReranker`, a `Client`, or an `AsyncClient` for the async methods only.

`user` is an id (with a client), a history, a vector, or a function from the query to one of these.
Without `user` the query is the user id.

The metadata of each document holds rank, score, persona and explanation; see `base.metadata_of`.
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
    """Retrieves the `top` items of the whole catalogue for a user, without items already seen.

    A document's text is the item's title and the explanation, or what `text_of` returns for the
    item id; its metadata holds the id under `item_key`. Empty for an unknown user (None). Raises
    ServiceRefusedError for an id that the service does not know. `filter`: see
    `PersonaReranker.recommend`.
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
            metadata={self.item_key: item.item_id, **base.metadata_of(item)},
        )


class PersonaCompressor(BaseDocumentCompressor):
    """Reranks documents for a user by the personas of their items.

    The metadata of a document holds its item id under `item_key`; raises InputError if it does
    not. Documents of one item stay together. Documents of items without personas keep their
    order, behind the others. Texts stay the same, and the given documents are not changed.

    `top`: number of documents. `explain`: number of items that carry their persona. `score_key`:
    the metadata key of the generator's score, which `fusion` mixes in. `filter` and `fusion`: see
    `PersonaReranker.rerank`.
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
        return [_with(documents[place], added) for place, added in placed]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents reranked, best first."""
        placed = await base.arerank(*self._asked(documents, query), **self._options)
        return [_with(documents[place], added) for place, added in placed]

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
                f"the score of document {place} ({self.score_key!r} in its metadata) is not a "
                f"number: {score!r}"
            ) from None


def _with(document: Document, added: base.Metadata) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, **added}})
