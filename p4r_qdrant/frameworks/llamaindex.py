"""LlamaIndex adapters: a retriever for the whole catalogue, and a postprocessor that reranks.

    retriever = PersonaRetriever(Client("http://localhost:8000", key=KEY))
    nodes = retriever.retrieve("maren-o")

`reranker` is a `PersonaReranker`, a `Client`, or an `AsyncClient` for the async methods only.

`user` is an id (with a client), a history, a vector, or a function from the query's text to one of
these. Without `user` the query's text is the user id. The query's embedding is not used, because
another model made it.

The metadata of each node holds rank, score, persona and explanation; see `base.metadata_of`. Only
the explanation is shown to an LLM, and none of it is embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from p4r_qdrant.errors import MissingExtraError
from p4r_qdrant.frameworks import base
from p4r_qdrant.settings import RerankSettings

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ModuleNotFoundError:
    raise MissingExtraError(
        "this adapter needs llama-index-core: pip install 'p4r-qdrant[llamaindex]'"
    ) from None


class PersonaRetriever(BaseRetriever):
    """Retrieves the `top` items of the whole catalogue for a user, without items already seen.

    A node's text is the item's title and the explanation, or what `text_of` returns for the item
    id. Its id is the item id, which its metadata holds under `item_key`. Empty for an unknown user
    (None). Raises ServiceRefusedError for an id that the service does not know. `filter`: see
    `PersonaReranker.recommend`; `options` are those of LlamaIndex's BaseRetriever.
    """

    def __init__(
        self,
        reranker: base.Reranker,
        user: Any = None,
        *,
        top: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        item_key: str = "item_id",
        text_of: Callable[[str], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._reranker = reranker
        self._user = user
        self._top = top
        self._filter = filter
        self._item_key = item_key
        self._text_of = text_of

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        found = base.recommend(self._reranker, self._user, query, self._top, self._filter)
        return [self._node(item) for item in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        found = await base.arecommend(self._reranker, self._user, query, self._top, self._filter)
        return [self._node(item) for item in found]

    def _node(self, item: base.Ranked) -> NodeWithScore:
        node = TextNode(
            id_=item.item_id,
            text=base.text_of(item, self._text_of),
            metadata={self._item_key: item.item_id},
        )
        return _with(node, base.metadata_of(item), show=self._text_of is not None)


class PersonaPostprocessor(BaseNodePostprocessor):
    """Reranks nodes for a user by the personas of their items.

    The metadata of a node holds its item id under `item_key`; raises InputError if it does not.
    Nodes of one item stay together. Nodes of items without personas keep their order, behind the
    others, and lose their score. Texts stay the same, and the given nodes are not changed.

    A node's score is the generator's, which `fusion` mixes in. `top`: number of nodes. `explain`:
    number of items that carry their persona. `filter` and `fusion`: see `PersonaReranker.rerank`.
    """

    reranker: base.Reranker = Field(exclude=True)
    user: Any = Field(None, exclude=True)
    top: int | None = Field(None, ge=1)
    filter: dict[str, Any] | None = None
    explain: int = Field(10, ge=0)
    fusion: RerankSettings | None = None
    item_key: str = "item_id"

    @classmethod
    def class_name(cls) -> str:
        """Name that LlamaIndex uses to serialize the class."""
        return "PersonaPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        placed = base.rerank(*self._asked(nodes, query_bundle), **self._options)
        return [_with(nodes[place].node, added) for place, added in placed]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        placed = await base.arerank(*self._asked(nodes, query_bundle), **self._options)
        return [_with(nodes[place].node, added) for place, added in placed]

    def _asked(
        self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle | None
    ) -> tuple[Any, ...]:
        candidates = [
            (base.item_id_of(one.node.metadata, self.item_key, place), one.score)
            for place, one in enumerate(nodes)
        ]
        query = query_bundle.query_str if query_bundle else None
        return self.reranker, self.user, query, candidates, self.top

    @property
    def _options(self) -> dict[str, Any]:
        return {"filter": self.filter, "explain": self.explain, "rerank": self.fusion}


def _with(node: Any, added: base.Metadata, *, show: bool = True) -> NodeWithScore:
    """A copy of a node with more metadata. `show`: an LLM sees the explanation."""
    shown = {base.EXPLANATION} if show and added[base.EXPLANATION] else set()
    return NodeWithScore(
        node=node.model_copy(
            update={
                "metadata": {**node.metadata, **added},
                "excluded_llm_metadata_keys": [
                    *node.excluded_llm_metadata_keys,
                    *(key for key in added if key not in shown),
                ],
                "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *added],
            }
        ),
        score=added["p4r_score"],
    )
