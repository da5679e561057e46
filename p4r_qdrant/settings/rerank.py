"""How candidates are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from p4r_qdrant.settings.section import Section


class RerankSettings(Section):
    """How candidates are scored. The defaults are Eq. 10 without fusion.

    See docs/explanation/options.md.
    """

    fusion: Literal["none", "weighted", "rrf"] = Field(
        "none",
        description="How persona scores and the generator's scores are combined: not at all, by a "
        "weighted sum, or by reciprocal rank fusion.",
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
