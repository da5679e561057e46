"""Requests and answers of searching items by a description of a person."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from p4r_qdrant.index.filters import parse
from p4r_qdrant.records import PersonaMatch
from p4r_qdrant.schemas.base import Answer, Body, BoundedText
from p4r_qdrant.schemas.reranking import PersonaAnswer


class SearchBody(Body):
    """A person, described in words."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"text": "a night nurse who cooks on one ring", "top": 3}}
    )

    text: Annotated[BoundedText, Field(min_length=1, pattern=r"\S")]
    top: int = Field(10, ge=1, le=1000, description="Number of items to return.")
    filter: dict[str, Any] | None = Field(
        None, description='Search only items that match: {"language": "en", "stock": {"gt": 0}}.'
    )

    @model_validator(mode="after")
    def _check_filter(self) -> SearchBody:
        parse(self.filter)
        return self


class FoundAnswer(Answer):
    """An item and the persona of it that is nearest to the described person.

    score: the cosine of both, from -1 to 1.
    """

    item_id: str
    item_title: str | None
    score: float
    persona: PersonaAnswer

    @classmethod
    def of(cls, match: PersonaMatch) -> dict[str, Any] | None:
        """The answer as a plain dict; None if the item was deleted meanwhile."""
        if match.persona is None or match.score is None:
            return None
        return {
            "item_id": match.item_id,
            "item_title": match.persona.fields.get("item_title"),
            "score": match.score,
            "persona": PersonaAnswer.of(match.persona),
        }


class SearchAnswer(Answer):
    """Items, the nearest persona first. `fingerprint` names the encoder."""

    items: list[FoundAnswer]
    fingerprint: str
