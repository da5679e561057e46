"""One rating by an LLM: the prompt from profiles, and the expected value of the digits.

Source: EXP3RT (arXiv 2408.06276), step 3. The digits' distribution is read where the rating stands
in the first answer; no second call is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from indexer.llm import Options
from indexer.peers.asking import Form
from indexer.peers.scale import RatingScale

MARKER = "Predicted rating:"
REASONED_TOKENS = 320
PLAIN_TOKENS = 24


@dataclass(frozen=True, slots=True)
class RatingMaterial:
    """What a rating is predicted from. Averages are None where they are not printed."""

    user_profile: str
    item_description: str
    item_profile: str
    user_average: float | None = None
    item_average: float | None = None

    def text(self, scale: RatingScale) -> str:
        """User profile, item description and item profile, in this order."""
        averages = [
            f"The average of this person's ratings is {scale.shown(self.user_average)}.\n"
            if self.user_average is not None
            else "",
            f"The average of its ratings is {scale.shown(self.item_average)}.\n"
            if self.item_average is not None
            else "",
        ]
        return (
            f"Profile of the person:\n{self.user_profile}\n{averages[0]}\n"
            f"Description:\n{self.item_description}\n\n"
            f"What others say of it:\n{self.item_profile}\n{averages[1]}"
        ).strip()


@dataclass(frozen=True, slots=True)
class Predicted:
    """An expected rating; `reasons`: what the model wrote before it."""

    rating: float
    reasons: str = ""


@dataclass(frozen=True, slots=True)
class RatingForm:
    """How a rating is asked for."""

    scale: RatingScale
    reasoning: bool

    @property
    def template(self) -> str:
        """The name of the prompt template."""
        return "peer_reasoned_rating" if self.reasoning else "peer_rating"

    @property
    def form(self) -> Form:
        """The form of the answer: a digit behind the marker."""
        tokens = REASONED_TOKENS if self.reasoning else PLAIN_TOKENS
        after = MARKER if self.reasoning else ""
        return Form(tokens, options=Options(self.scale.digits, after=after))

    @property
    def values(self) -> dict[str, str]:
        """What is put into the template."""
        digits = self.scale.digits
        return {"worst": digits[0], "best": digits[-1], "marker": MARKER}

    @property
    def assumed(self) -> dict[str, Any]:
        """The answer of a dry run."""
        text = "word " * 100 if self.reasoning else ""
        return {"text": f"{text}{MARKER} {self.scale.digits[-1]}", "options": {}}

    def predicted(self, answer: Mapping[str, Any] | None) -> Predicted | None:
        """The expected rating and its reasons; None if there is no usable answer."""
        if answer is None or not answer["options"]:
            return None
        text = str(answer["text"])
        end = text.lower().rfind(MARKER.lower())
        reasons = " ".join(text[:end].split()) if self.reasoning and end > 0 else ""
        return Predicted(self.scale.expected(answer["options"]), reasons)
