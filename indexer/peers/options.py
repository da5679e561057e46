"""The options of peers, as an experiment's file and the command line set them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TunablePeer = Literal["letters", "pointwise", "rated"]
RankingPeer = Literal["listwise", "letters", "pointwise", "rated"]
"""The peers that put candidates in order; `explained` explains them."""
Precision = Literal["float32", "bfloat16"]
"""Of the weights of a local model."""


class PeerOptions(BaseModel):
    """How peers ask. The defaults are those of the papers, where these name one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: Annotated[int, Field(ge=1, le=200)] = 10
    """The newest interactions of a user that a prompt shows."""
    words: Annotated[int, Field(ge=5, le=2000)] = 300
    """Words of one candidate; characters count where a text has no spaces."""
    history_words: Annotated[int, Field(ge=5, le=2000)] = 60
    """Words of one interaction."""
    window: Annotated[int, Field(ge=2, le=20)] = 20
    """Candidates in one prompt of listwise and letters."""
    votes: Annotated[int, Field(ge=1, le=10)] = 1
    """listwise: shuffles of a window whose places are added up (LLMRank: 3)."""
    recency: bool = False
    """listwise: a sentence that names the newest interaction (LLMRank)."""
    example: bool = False
    """listwise: the newest interaction is shown as an example of a choice (LLMRank)."""
    disliked: float = 2.0
    """pointwise: a rating up to this is a dislike."""
    lowest: float = 1.0
    highest: float = 5.0
    """rated: the ends of the rating scale."""
    averages: bool = False
    """rated: print the average ratings of user and item, from training ratings alone."""
    reasoning: bool = True
    """rated: ask for reasons before the rating; without, one call writes a few tokens only."""
    similar: bool = False
    """rated: an item's profile is made from reviews by the most similar users, not the longest."""
    reviews: Annotated[int, Field(ge=1, le=100)] = 10
    """rated, explained: reviews from which a profile is made."""
    explained: Annotated[int, Field(ge=1, le=100)] = 5
    """explained: items of a list that get an explanation."""

    @model_validator(mode="after")
    def _check_scale(self) -> PeerOptions:
        if not self.lowest < self.highest:
            raise ValueError("lowest must be less than highest")
        return self
