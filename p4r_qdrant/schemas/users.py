"""Requests and answers about users."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from p4r_qdrant.records import Id, Rating, Timestamp
from p4r_qdrant.schemas.base import Answer, Body, BoundedText


class InteractionBody(Body):
    """An interaction. The same one sent twice (user, item, time and texts) counts once."""

    item_id: Id
    timestamp: Timestamp = Field(description="Seconds since 1970.")
    rating: Rating | None = None
    title: BoundedText = Field("", description="Part of the review.")
    text: BoundedText = Field("", description="Part of the review.")

    @model_validator(mode="after")
    def _check_rating(self) -> InteractionBody:
        if self.rating is None and (self.title or self.text):
            raise ValueError(
                "a review needs a rating: the same words mean something else with 1 of 5 stars"
            )
        return self


class AcceptedAnswer(Answer):
    """What became of an interaction.

    `new` is false if it was stored already. `encoded` is true if the user vector includes it; else
    it will once an encoder is ready. `aspects`: "queued" if an LLM will read the review; "no_llm"
    if no LLM is configured here, and it is read once there is one; "none" if there is no review.
    """

    user_id: str
    item_id: str
    timestamp: int
    new: bool
    encoded: bool
    aspects: Literal["queued", "no_llm", "none"]


class HistoryAnswer(Answer):
    """An interaction that is part of the user vector."""

    item_id: str
    timestamp: int
    title: str
    rating: float | None
    has_aspects: bool
    encoded: bool


class UserAnswer(Answer):
    """The newest interactions of a user, which make the user vector."""

    user_id: str
    personalized: bool
    history: list[HistoryAnswer]


class ExportedInteraction(Answer):
    """One line of an export."""

    item_id: str
    timestamp: int
    rating: float | None
    title: str
    summary: str
    review_title: str
    review_text: str
    aspects: dict[str, str | None] | None


class ErasedAnswer(Answer):
    """Number of erased interactions. The worker also erases what it made of them."""

    user_id: str
    erased: int
