"""What goes in and out over HTTP: the models behind the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from p4r_qdrant.index.filters import parse
from p4r_qdrant.records import (
    Because,
    Id,
    Interaction,
    Persona,
    RankedItem,
    Ranking,
    StoredPersona,
    Text,
)
from p4r_qdrant.settings import RerankSettings

MAX_TIME = 2**63 - 1
MAX_TEXT = 100_000
"""Characters of one text."""

BoundedText = Annotated[Text, Field(max_length=MAX_TEXT)]
Reason = Literal[
    "deadline", "index_unavailable", "encoder_unavailable", "overloaded", "internal_error"
]
"""Why the generator's order came back."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


# --- errors -----------------------------------------------------------------------------------


class Problem(_Answer):
    """What was wrong, for programs (`code`) and for people (`message`)."""

    code: str
    message: str


class ErrorBody(_Answer):
    """Every answer that is no success."""

    error: Problem
    request_id: str


# --- reranking --------------------------------------------------------------------------------


class InlineInteraction(_Body):
    """A past interaction: what Eq. 6 encodes. Give the item's summary, or at least its title."""

    item_id: Id
    timestamp: int = Field(
        ge=0, le=MAX_TIME, description="Seconds since 1970; the newest counts most."
    )
    summary: BoundedText = ""
    title: BoundedText = ""
    aspects: dict[str, BoundedText | None] = Field(default_factory=dict, max_length=64)

    def record(self) -> Interaction:
        """As the encoder takes it."""
        return Interaction(self.item_id, self.timestamp, self.summary, self.title, self.aspects)


class CandidateBody(_Body):
    """An item with the generator's score."""

    item_id: Id
    score: FiniteFloat | None = None


class UserBody(_Body):
    """One user, known by id, history or vector, and the candidates to rerank, best first.

    Without any of the three it is somebody unknown, for whom the generator's order holds.
    """

    user_id: Id | None = None
    history: list[InlineInteraction] | None = None
    vector: list[FiniteFloat] | None = None
    candidates: list[Id | CandidateBody] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_one(self) -> UserBody:
        given = [
            name for name in ("user_id", "history", "vector") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"give one of user_id, history and vector, not {' and '.join(given)}")
        return self

    def interactions(self) -> list[Interaction]:
        """The inline history."""
        return [one.record() for one in self.history or ()]

    def pairs(self) -> list[tuple[str, float | None]]:
        """The candidates as (item id, generator's score)."""
        return [
            (one, None) if isinstance(one, str) else (one.item_id, one.score)
            for one in self.candidates
        ]


class FusionBody(_Body):
    """How the generator's scores are mixed in; see P4R_RERANK__*."""

    method: Literal["none", "weighted", "rrf"]
    weight: float = Field(0.6, ge=0, le=1, description="Share of the persona score (weighted).")
    rrf_k: int = Field(60, ge=1, le=1_000_000)

    def settings(self) -> RerankSettings:
        """As the reranker takes it."""
        return RerankSettings(fusion=self.method, weight=self.weight, rrf_k=self.rrf_k)


class RerankBody(_Body):
    """One or many users, and what is wanted for all of them."""

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

    users: list[UserBody] = Field(min_length=1)
    top: int | None = Field(None, ge=1, le=1_000_000, description="Keep so many items a user.")
    explain: int = Field(
        10, ge=0, le=10_000, description="The first so many items carry persona and reasons."
    )
    filter: dict[str, Any] | None = Field(
        None,
        description='Only candidates known to match: {"language": "en", "stock": {"gt": 0}}. '
        "Not applied where `degraded` is true.",
    )
    min_score: FiniteFloat | None = Field(
        None, description="Leave out items whose score is lower, or that have none."
    )
    fusion: FusionBody | None = None

    @model_validator(mode="after")
    def _check_filter(self) -> RerankBody:
        parse(self.filter)
        return self


class PersonaAnswer(_Answer):
    """A persona of an item."""

    persona_id: str
    name: str
    description: str
    preference_rationale: str

    @classmethod
    def of(cls, persona: StoredPersona) -> dict[str, Any]:
        """As a plain dict: thousands of these are made a second."""
        return {
            "persona_id": persona.persona_id,
            "name": persona.name,
            "description": persona.description,
            "preference_rationale": persona.preference_rationale,
        }


class BecauseAnswer(_Answer):
    """A past interaction's share in a score; the shares of all add up to 1."""

    item_id: str
    title: str
    share: float

    @classmethod
    def of(cls, because: Because) -> dict[str, Any]:
        """As a plain dict."""
        return {"item_id": because.item_id, "title": because.title, "share": because.share}


class RankedAnswer(_Answer):
    """One place of a ranking.

    `score` ordered the item (None where the generator's order holds), `persona_score` is Eq. 10.
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

    @classmethod
    def of(cls, item: RankedItem) -> dict[str, Any]:
        """As a plain dict."""
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
        return answer


class RankingAnswer(_Answer):
    """One user's items, best first.

    `personalized` is false where nothing is known of the user: the generator's order holds.
    `degraded` is true where something failed and the generator's order came back instead.
    `fingerprint` is of the encoder whose vectors were compared, empty where none were.
    """

    user_id: str | None
    fingerprint: str = ""
    personalized: bool
    degraded: bool
    reason: Reason | None
    items: list[RankedAnswer]

    @classmethod
    def of(
        cls, user: UserBody, ranking: Ranking, reason: Reason | None, min_score: float | None
    ) -> dict[str, Any]:
        """As a plain dict."""
        items = ranking.items
        if min_score is not None and ranking.personalized:
            items = tuple(one for one in items if one.score is not None and one.score >= min_score)
        return {
            "user_id": user.user_id,
            "fingerprint": ranking.fingerprint,
            "personalized": ranking.personalized,
            "degraded": reason is not None,
            "reason": reason,
            "items": [RankedAnswer.of(one) for one in items],
        }


class RerankAnswer(_Answer):
    """One ranking for each user of the request, in its order."""

    rankings: list[RankingAnswer]
    degraded: bool = Field(description="Whether any of the rankings is.")
    request_id: str


# --- items ------------------------------------------------------------------------------------


class ReviewBody(_Body):
    """A review that personas rest on."""

    user_id: Id
    rating: FiniteFloat
    timestamp: int = Field(ge=0, le=MAX_TIME, description="Seconds since 1970.")
    title: BoundedText = ""
    text: BoundedText = ""


class ItemBody(_Body):
    """An item: with ready `personas`, or with metadata and `reviews` that an LLM makes them from.

    `vectors`: one a persona, by the encoder the index was made with; without, they are encoded.
    """

    personas: list[Persona] | None = Field(None, min_length=1, max_length=256)
    reviews: list[ReviewBody] = Field(default_factory=list, max_length=1000)
    description: BoundedText = ""
    vectors: list[list[FiniteFloat]] | None = Field(None, max_length=256)
    summary: BoundedText = ""
    title: BoundedText = ""
    categories: list[BoundedText] = Field(default_factory=list, max_length=100)
    brand: BoundedText = ""
    domain: BoundedText = "products"
    fields: dict[str, Any] = Field(
        default_factory=dict, description="Anything to filter on: price, language, stock ..."
    )

    @model_validator(mode="after")
    def _check_one(self) -> ItemBody:
        if self.personas is not None and self.reviews:
            raise ValueError("give ready personas, or reviews to make them from, not both")
        if self.personas is None and self.vectors is not None:
            raise ValueError("vectors are those of personas: give both, or neither")
        return self


class PutItemAnswer(_Answer):
    """`written` is false where a newer write of the item was there and stays, or has yet to come.

    `reasoning`: whether an LLM is to make the personas ("queued"), there is none configured here
    ("no_llm": they are made when there is one), or they came with the item ("none").
    """

    item_id: str
    personas: int
    written: bool
    reasoning: Literal["queued", "no_llm", "none"]


class ItemPersonasAnswer(_Answer):
    """An item's personas and the fields stored beside them."""

    item_id: str
    personas: list[PersonaAnswer]
    fields: Mapping[str, Any]


class DeletedAnswer(_Answer):
    """What was taken out."""

    deleted: str


# --- health -----------------------------------------------------------------------------------


class HealthAnswer(_Answer):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(_Answer):
    """Whether requests can be answered in full, part by part."""

    ready: bool
    index: Literal["open", "unavailable"]
    encoder: Literal["ready", "loading", "absent", "failed"]


# --- users ------------------------------------------------------------------------------------


class InteractionBody(_Body):
    """Something a user did. The same one twice (user, item, time and words) counts once."""

    item_id: Id
    timestamp: int = Field(ge=0, le=MAX_TIME, description="Seconds since 1970.")
    rating: FiniteFloat | None = None
    title: BoundedText = Field("", description="Of the review.")
    text: BoundedText = Field("", description="Of the review.")

    @model_validator(mode="after")
    def _check_rating(self) -> InteractionBody:
        if self.rating is None and (self.title or self.text):
            raise ValueError(
                "a review comes with a rating: what is said of 1 of 5 is another thing"
            )
        return self


class AcceptedAnswer(_Answer):
    """What became of an interaction.

    `new` is false where it was known. `encoded`: it counts in the user vector already; else it
    will once there is an encoder. `aspects`: whether an LLM is to read the review ("queued"),
    there is none configured here ("no_llm": it is read when there is one), or nothing to read
    ("none").
    """

    user_id: str
    item_id: str
    timestamp: int
    new: bool
    encoded: bool
    aspects: Literal["queued", "no_llm", "none"]


class HistoryAnswer(_Answer):
    """An interaction that makes up the user vector."""

    item_id: str
    timestamp: int
    title: str
    rating: float | None
    has_aspects: bool
    encoded: bool


class UserAnswer(_Answer):
    """What is known of a user: the newest interactions, which the user vector is made of."""

    user_id: str
    personalized: bool
    history: list[HistoryAnswer]


class ExportedInteraction(_Answer):
    """One line of an export."""

    item_id: str
    timestamp: int
    rating: float | None
    title: str
    summary: str
    review_title: str
    review_text: str
    aspects: dict[str, str | None] | None


class ErasedAnswer(_Answer):
    """How many interactions were erased; the worker erases what it made of them, too."""

    user_id: str
    erased: int


class JobAnswer(_Answer):
    """A job that was given up."""

    kind: str
    about: str
    attempts: int
    problem: str


class JobsAnswer(_Answer):
    """The state of the background work."""

    waiting: int
    failed: int
    last_failed: list[JobAnswer]


class RecommendationsAnswer(_Answer):
    """Items for a user from the whole catalogue, best first.

    `personalized` is false, and the list empty, where the user's interactions tell nothing.
    """

    user_id: str
    personalized: bool
    items: list[RankedAnswer]
