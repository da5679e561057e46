"""The weights of the one score: recorded with a version, set, or given with a call."""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.settings import RerankSettings


class Weights(BaseModel):
    """Weights of the three parts of a score; only their ratios count."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    personas: float = Field(1.0, ge=0)
    collaborative: float = Field(1.0, ge=0)
    generator: float = Field(1.0, ge=0)

    def described(self) -> str:
        """The weights for people."""
        return ", ".join(f"{part} {weight:g}" for part, weight in self.model_dump().items())


class Scoring(BaseModel):
    """What `p4r tune` chose and a version records: weights for lists and for the catalogue.

    candidates: for lists of a generator; None if there were no lists to choose them with.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    candidates: Weights | None = None
    catalogue: Weights | None = None

    def weights(self, *, catalogue: bool) -> Weights | None:
        """The weights for the whole catalogue or for a list; those of the other if need be."""
        wanted = (self.catalogue, self.candidates)
        return next((one for one in (wanted if catalogue else wanted[::-1]) if one), None)

    @classmethod
    def recorded(cls, text: str) -> Scoring | None:
        """What a version records as `text`; None if it records none.

        Raises IndexMismatchError if it cannot be read.
        """
        return _parsed(text) if text else None

    def described(self) -> str:
        """The weights for people."""
        ways = {"lists": self.candidates, "the whole catalogue": self.catalogue}
        return "; ".join(f"{one.described()} for {way}" for way, one in ways.items() if one)


@lru_cache(maxsize=64)
def _parsed(text: str) -> Scoring:
    try:
        return Scoring.model_validate_json(text)
    except ValidationError:
        raise IndexMismatchError(
            "the version records weights of the score that this release cannot read; publish it "
            "again"
        ) from None


def resolved(
    options: RerankSettings, index: PersonaIndex, *, catalogue: bool = False
) -> tuple[RerankSettings, Weights]:
    """The options with a definite `fusion`, and the weights of the parts that there are.

    A weight that is set counts, then the one that the version records, then 1. catalogue: whether
    the whole catalogue is ranked, without a generator. Raises IndexMismatchError if a weight of the
    collaborative part is set and the index has no such part.
    """
    recorded = Scoring.recorded(index.metadata.scoring)
    if options.fusion == "recorded":
        fusion = "none" if recorded is None else "standard"
        options = options.model_copy(update={"fusion": fusion})
    found = (recorded.weights(catalogue=catalogue) if recorded else None) or Weights()
    given = {
        "personas": options.persona_weight,
        "collaborative": options.collaborative_weight,
        "generator": options.generator_weight,
    }
    changed = {name: weight for name, weight in given.items() if weight is not None}
    if index.collaborative is None and options.fusion == "standard":
        if options.collaborative_weight:
            index.collaborative_scores([{}], [[]])  # raises, and says what to do
        changed["collaborative"] = 0.0
    if catalogue:
        changed["generator"] = 0.0
    return options, found.model_copy(update=changed)


def counted_part(index: PersonaIndex, options: RerankSettings) -> CollaborativePart | None:
    """The collaborative part of an index, if it counts in the score of lists."""
    options, weights = resolved(options, index)
    counts = options.fusion == "standard" and weights.collaborative
    return index.collaborative if counts else None
