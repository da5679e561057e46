"""Requests and answers of the rerank protocol that Cohere, Jina, Voyage and LiteLLM share."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from p4r_qdrant.schemas.base import Answer, AtMost, Body, BoundedText
from p4r_qdrant.schemas.reranking import Reason


class DocumentBody(Body):
    """A document as an object."""

    text: BoundedText


class CommonRerankBody(Body):
    """A query and the documents to order.

    The query is the id of a stored user, or a text that describes a person. A document is the id of
    an item, or a text. Options of other servers, such as `truncation`, have no effect.
    """

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "example": {
                "model": "personas",
                "query": "a night nurse who cooks on one ring",
                "documents": ["beans-mostly", "tin-parliament"],
                "top_n": 1,
            }
        },
    )

    model: str = Field("personas", max_length=256, description="Returned as it is.")
    query: Annotated[BoundedText, Field(min_length=1, pattern=r"\S")]
    documents: Annotated[
        list[BoundedText | DocumentBody],
        Field(min_length=1, fail_fast=True),
        AtMost("max_candidates", "documents", "a request"),
    ]
    top_n: int | None = Field(None, ge=1, description="Number of results; unset: all.")
    top_k: int | None = Field(None, ge=1, description="The same, for clients of Voyage.")
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        """The documents as texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    @property
    def top(self) -> int | None:
        """Number of results; None: all."""
        return self.top_n or self.top_k


class DocumentAnswer(Answer):
    """A document, if the request asked to have it back."""

    text: str


class CommonResult(Answer):
    """A document by its index in the request. Only the order of the scores has a meaning."""

    index: int
    relevance_score: float
    document: DocumentAnswer | None = None


class UsageAnswer(Answer):
    """Tokens of an LLM: none is asked."""

    total_tokens: int = 0


class CommonRerankAnswer(Answer):
    """The results, best first; `data` has them a second time, for clients of Voyage.

    If something fails, the documents keep their order and `degraded` says why.
    """

    id: str
    model: str
    object: str = "list"
    results: list[CommonResult]
    data: list[CommonResult]
    usage: UsageAnswer = UsageAnswer()
    degraded: Reason | None = None
