"""Requests and answers about an item that is not among the first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, Field

from p4r_qdrant.records import Id, WhyNot
from p4r_qdrant.schemas.base import Answer, Body
from p4r_qdrant.schemas.reranking import FusionBody, PartsAnswer, RankedAnswer, UserBody


class WhyNotBody(Body):
    """A user with candidates, as for /v1/rerank, and one of the candidates."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user": {"user_id": "ada", "candidates": ["beans-mostly", "tin-parliament"]},
                "item_id": "tin-parliament",
                "top": 1,
            }
        }
    )

    user: UserBody
    item_id: Id
    top: int = Field(10, ge=1, le=10_000, description="Among how many items it should be.")
    additions: int = Field(
        0, ge=0, le=20, description="Known items that are tried as one more interaction."
    )
    fusion: FusionBody | None = None


class ChangeAnswer(Answer):
    """One change of the history. `adds`: the item is added, else left out. `rank`: afterwards."""

    item_id: str
    title: str
    adds: bool
    rank: int


class WhyNotAnswer(Answer):
    """Why an item is not among the first `top`.

    `threshold`: the last of these; null if the item is among them. `differences`: what each part
    carried of the item's score minus that of the threshold. `change`: the smallest one that lifts
    the item; null if there is none, or if nobody may learn of the user's items. `tried`: number of
    changes that were looked at.
    """

    item: RankedAnswer
    threshold: RankedAnswer | None
    differences: PartsAnswer
    change: ChangeAnswer | None
    tried: int
    advice: str

    @classmethod
    def of(cls, found: WhyNot, *, because: bool) -> dict[str, Any]:
        """The answer as a plain dict. Without `because` it names no item of the user."""
        advice = found.advice
        if found.change is not None and not because:
            advice = "One change of the history lifts it."
        return {
            "item": RankedAnswer.of(found.item, because=because),
            "threshold": (
                RankedAnswer.of(found.threshold, because=because) if found.threshold else None
            ),
            "differences": found.differences._asdict(),
            "change": asdict(found.change) if found.change is not None and because else None,
            "tried": found.tried,
            "advice": advice,
        }
