"""Requests and answers about items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from p4r_qdrant.records import DomainName, Id, Persona, Rating, Timestamp
from p4r_qdrant.schemas.base import Answer, Body, BoundedText
from p4r_qdrant.schemas.reranking import PersonaAnswer, VectorBody


class ReviewBody(Body):
    """A review to make personas from."""

    user_id: Id
    rating: Rating
    timestamp: Timestamp = Field(description="Seconds since 1970.")
    title: BoundedText = ""
    text: BoundedText = ""


class ItemBody(Body):
    """An item with ready `personas`, or with metadata and `reviews` to make them from.

    `vectors`: one for each persona, by the encoder of the index; if missing, the service encodes.
    """

    personas: Annotated[list[Persona], Field(fail_fast=True)] | None = Field(
        None, min_length=1, max_length=256
    )
    reviews: Annotated[list[ReviewBody], Field(fail_fast=True)] = Field(
        default_factory=list, max_length=1000
    )
    description: BoundedText = ""
    vectors: Annotated[list[VectorBody], Field(fail_fast=True)] | None = Field(None, max_length=256)
    summary: BoundedText = ""
    title: BoundedText = ""
    categories: Annotated[list[BoundedText], Field(fail_fast=True)] = Field(
        default_factory=list, max_length=100
    )
    brand: BoundedText = ""
    domain: DomainName = "products"
    fields: dict[str, Any] = Field(
        default_factory=dict, description="Fields to filter on: price, language, stock ..."
    )

    @model_validator(mode="after")
    def _check_one(self) -> ItemBody:
        if self.personas is not None and self.reviews:
            raise ValueError("send ready personas, or reviews to make them from, not both")
        if self.personas is None and self.vectors is not None:
            raise ValueError("vectors belong to personas: send both, or neither")
        return self


class PutItemAnswer(Answer):
    """What became of a written item.

    `written` is false if a newer write of the item stays, or if the personas are not made yet.
    `reasoning`: "queued" if an LLM will make the personas; "no_llm" if no LLM is configured here,
    and they are made once there is one; "none" if they came with the item.
    """

    item_id: str
    personas: int
    written: bool
    reasoning: Literal["queued", "no_llm", "none"]


class ItemPersonasAnswer(Answer):
    """An item's personas and the fields stored beside them."""

    item_id: str
    personas: list[PersonaAnswer]
    fields: Mapping[str, Any]


class DeletedAnswer(Answer):
    """The id of the deleted item."""

    deleted: str
