"""How summaries, aspects, personas and alignments are made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from p4r_qdrant.settings.section import Section


class ReasoningSettings(Section):
    """How summaries, aspects, personas and alignments are made."""

    strategy: Literal["judge", "similarity", "extractive"] = Field(
        "judge",
        description="Who makes the artifacts of p4r reason, add, work and serve. judge: an LLM, "
        "alignments too. similarity: an LLM, but alignments by the encoder. extractive: no LLM; "
        "personas quote sentences of reviews, which the encoder groups. It costs nothing.",
    )
    rules: Path | None = Field(
        None,
        description="TOML file of banned words and rules for the texts of personas. Answers that "
        "break one are asked for again; such personas are flagged in the studio and never "
        "published.",
    )
