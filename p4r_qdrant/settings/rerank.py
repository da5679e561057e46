"""How candidates are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from p4r_qdrant.settings.section import Section

Fusion = Literal["recorded", "standard", "weighted", "rrf", "none"]


class RerankSettings(Section):
    """How candidates are scored. By default as the version of the index records, else by Eq. 10.

    See docs/explanation/options.md.
    """

    fusion: Fusion = Field(
        "recorded",
        description="How persona, collaborative and generator scores are combined. standard: a "
        "weighted sum of all three, standardised; weighted, rrf: persona and generator scores by a "
        "weighted sum or by reciprocal ranks; none: persona scores alone; recorded: standard if "
        "the version of the index records weights (`p4r tune`), else none.",
    )
    persona_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="Weight of the persona score (standard); unset: as recorded, else 1.",
    )
    collaborative_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="Weight of the collaborative score (standard); unset: as recorded, else 1.",
    )
    generator_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="Weight of the generator's score (standard); unset: as recorded, else 1.",
    )
    weight: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Share of the persona score in weighted fusion; the rest is the generator's.",
    )
    rrf_k: int = Field(60, ge=1, description="Constant k of reciprocal rank fusion.")
    interests: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the user's single interactions in the score, of which the nearest "
        "one counts; the rest is the user vector's (Eq. 7).",
    )
    prior: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Penalty for personas that are similar to everyone (0 = off). `p4r publish` "
        "stores the mean user that it needs if this is set.",
    )
