"""Requests and answers of reranking and recommending."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from p4r_qdrant.index.filters import parse
from p4r_qdrant.records import (
    Because,
    Id,
    Interaction,
    RankedItem,
    Ranking,
    Score,
    StoredPersona,
    Timestamp,
)
from p4r_qdrant.schemas.base import Answer, AtMost, Body, BoundedText
from p4r_qdrant.settings.rerank import Fusion, RerankSettings

Reason = Literal[
    "deadline",
    "index_unavailable",
    "index_refused",
    "encoder_unavailable",
    "overloaded",
    "internal_error",
]
"""Why a ranking keeps the generator's order. index_refused: Qdrant answers and refuses the query;
overloaded: so many requests wait, or Qdrant's rate limit is reached."""
FiniteScore = Annotated[Score, Field(allow_inf_nan=False)]
PartWeight = Annotated[float, Field(ge=0, le=1000)]
MAX_DIMENSION = 65_536
"""Most numbers of a vector: as many as Qdrant takes."""
VectorBody = Annotated[list[FiniteFloat], Field(max_length=MAX_DIMENSION, fail_fast=True)]


class InlineInteraction(Body):
    """A past interaction (Eq. 6). Send the item's summary, or at least its title."""

    item_id: Id
    timestamp: Timestamp = Field(
        description="Seconds since 1970. The newest interaction counts most."
    )
    summary: BoundedText = ""
    title: BoundedText = ""
    aspects: dict[str, BoundedText | None] = Field(default_factory=dict, max_length=64)

    def record(self) -> Interaction:
        """The interaction as the encoder takes it."""
        return Interaction(self.item_id, self.timestamp, self.summary, self.title, self.aspects)


class CandidateBody(Body):
    """A candidate with the generator's score."""

    item_id: Id
    score: FiniteScore | None = None


class UserBody(Body):
    """One user, given by id, history or vector, and the candidates to rerank, best first.

    Without any of the three the user is unknown, and the generator's order is kept.
    """

    user_id: Id | None = None
    history: (
        Annotated[
            list[InlineInteraction],
            Field(fail_fast=True),
            AtMost("max_history", "interactions", "a history"),
        ]
        | None
    ) = None
    vector: VectorBody | None = None
    candidates: Annotated[
        list[Id | CandidateBody],
        Field(min_length=1, fail_fast=True),
        AtMost("max_candidates", "candidates", "a user"),
    ]

    @model_validator(mode="after")
    def _check_one(self) -> UserBody:
        given = [
            name for name in ("user_id", "history", "vector") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"send one of user_id, history and vector, not {' and '.join(given)}")
        return self

    def interactions(self) -> list[Interaction]:
        """The inline history."""
        return [one.record() for one in self.history or ()]

    def pairs(self) -> list[tuple[str, float | None]]:
        """The candidates as pairs of item id and generator's score."""
        return [
            (one, None) if isinstance(one, str) else (one.item_id, one.score)
            for one in self.candidates
        ]


class FusionBody(Body):
    """How persona, collaborative and generator scores are combined; see P4R_RERANK__*.

    The three weights are those of `standard`; a weight that is not sent is as recorded.
    """

    method: Fusion
    weight: float = Field(0.6, ge=0, le=1, description="Share of the persona score (weighted).")
    rrf_k: int = Field(60, ge=1, le=1_000_000)
    persona_weight: PartWeight | None = None
    collaborative_weight: PartWeight | None = None
    generator_weight: PartWeight | None = None

    def settings(self) -> RerankSettings:
        """The settings that the reranker takes."""
        given = self.model_dump(exclude={"method"}, exclude_none=True)
        return RerankSettings(fusion=self.method, **given)


class RerankBody(Body):
    """One or many users, with options for all of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "users": [
                    {
                        "history": [
                            {
                                "item_id": "one-ring",
                                "timestamp": 1_730_000_000,
                                "summary": "A one-pan cookbook for small kitchens.",
                                "aspects": {"usage_context": "cooks after a night shift"},
                            }
                        ],
                        "candidates": [{"item_id": "beans-mostly", "score": 0.3}, "tin-parliament"],
                    }
                ],
                "top": 10,
            }
        }
    )

    users: Annotated[
        list[UserBody],
        Field(min_length=1, fail_fast=True),
        AtMost("max_users", "users", "a request"),
    ]
    top: int | None = Field(
        None, ge=1, le=1_000_000, description="Number of items to return for each user."
    )
    explain: int = Field(
        10, ge=0, le=10_000, description="Number of items that carry their persona and reasons."
    )
    filter: dict[str, Any] | None = Field(
        None,
        description='Keep only candidates that match: {"language": "en", "stock": {"gt": 0}}. '
        "Not applied if `degraded` is true.",
    )
    min_score: FiniteScore | None = Field(
        None, description="Leave out items with a lower score or without a score."
    )
    fusion: FusionBody | None = None

    @model_validator(mode="after")
    def _check_filter(self) -> RerankBody:
        parse(self.filter)
        return self


class PersonaAnswer(Answer):
    """A persona of an item. `extractive`: it quotes reviews, no LLM wrote it."""

    persona_id: str
    name: str
    description: str
    preference_rationale: str
    extractive: bool = False

    @classmethod
    def of(cls, persona: StoredPersona) -> dict[str, Any]:
        """The answer as a plain dict, for speed: thousands of these are made per second."""
        return {
            "persona_id": persona.persona_id,
            "name": persona.name,
            "description": persona.description,
            "preference_rationale": persona.preference_rationale,
            "extractive": persona.extractive,
        }


class BecauseAnswer(Answer):
    """The share of one of the user's items in a score. All shares add up to 1."""

    item_id: str
    title: str
    share: float

    @classmethod
    def of(cls, because: Because) -> dict[str, Any]:
        """The answer as a plain dict."""
        return {"item_id": because.item_id, "title": because.title, "share": because.share}


class PartsAnswer(Answer):
    """What each part carried of a score; they add up to it. Null: the part was left out."""

    personas: float | None
    collaborative: float | None
    generator: float | None


class RankedAnswer(Answer):
    """One item of a ranking.

    `score` orders the items; null if the generator's order is kept. `persona_score` is Eq. 10,
    `collaborative_score` what the user's items say. `parts`: null unless the standardised parts
    make the score. `because`: shares of the user's interactions in the persona score.
    `chosen_with`: the user's items that the collaborative score comes from. `why`: the reasons as
    one sentence.
    """

    item_id: str
    rank: int
    score: float | None
    persona_score: float | None
    generator_score: float | None
    generator_rank: int
    item_title: str | None = None
    persona: PersonaAnswer | None = None
    because: list[BecauseAnswer] = Field(default_factory=list)
    collaborative_score: float | None = None
    parts: PartsAnswer | None = None
    chosen_with: list[BecauseAnswer] = Field(default_factory=list)
    why: str = ""

    @classmethod
    def of(cls, item: RankedItem, *, because: bool = True) -> dict[str, Any]:
        """The answer as a plain dict. Without `because` it names no item of the user."""
        if not because:
            item = replace(item, because=(), chosen_with=())
        answer: dict[str, Any] = {
            "item_id": item.item_id,
            "rank": item.rank,
            "score": item.score,
            "persona_score": item.persona_score,
            "generator_score": item.generator_score,
            "generator_rank": item.generator_rank,
        }
        if item.persona is not None:
            answer["item_title"] = item.persona.fields.get("item_title")
            answer["persona"] = PersonaAnswer.of(item.persona)
            answer["because"] = [BecauseAnswer.of(one) for one in item.because]
        if item.parts is not None:
            answer["collaborative_score"] = item.collaborative_score
            answer["parts"] = item.parts._asdict()
            answer["chosen_with"] = [BecauseAnswer.of(one) for one in item.chosen_with]
        if why := item.why:
            answer["why"] = why
        return answer


class RankingAnswer(Answer):
    """One user's items, best first.

    `personalized` is false if nothing is known of the user; the generator's order is kept.
    `degraded` is true if something failed, and the generator's order is kept; `reason` says why.
    `fingerprint` names the encoder of the vectors; empty if no vectors were compared.
    """

    user_id: str | None
    fingerprint: str = ""
    personalized: bool
    degraded: bool
    reason: Reason | None
    items: list[RankedAnswer]

    @classmethod
    def of(
        cls,
        user: UserBody,
        ranking: Ranking,
        reason: Reason | None,
        min_score: float | None,
        *,
        because: bool = True,
    ) -> dict[str, Any]:
        """The answer as a plain dict. because: tell it of a stored user too."""
        items = ranking.items
        if min_score is not None and ranking.personalized:
            items = tuple(one for one in items if one.score is not None and one.score >= min_score)
        return {
            "user_id": user.user_id,
            "fingerprint": ranking.fingerprint,
            "personalized": ranking.personalized,
            "degraded": reason is not None,
            "reason": reason,
            "items": [
                RankedAnswer.of(one, because=because or user.user_id is None) for one in items
            ],
        }


class RerankAnswer(Answer):
    """One ranking for each user, in the order of the request."""

    rankings: list[RankingAnswer]
    degraded: bool = Field(description="Whether any ranking is degraded.")
    request_id: str


class RecommendationsAnswer(Answer):
    """Items of the whole catalogue for a user, best first.

    If no interaction of the user is known to the index and none has a text, `personalized` is false
    and the items are the most popular ones, if the index records them.
    """

    user_id: str
    personalized: bool
    items: list[RankedAnswer]
