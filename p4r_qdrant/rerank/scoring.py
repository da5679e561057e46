"""The weights of the one score: recorded with a version, set, or given with a call."""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.settings import RerankSettings

FORM = ("interests", "prior")
"""The fields of `Weights` and `RerankSettings` that shape the persona score."""


class Weights(BaseModel):
    """Weights of the three parts of a score, of which only the ratios count; and the form of the
    persona score that they were chosen for, `interests` and `prior` (see `RerankSettings`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    personas: float = Field(1.0, ge=0)
    collaborative: float = Field(1.0, ge=0)
    generator: float = Field(1.0, ge=0)
    interests: float = Field(0.0, ge=0, le=1)
    prior: float = Field(0.0, ge=0)

    def described(self) -> str:
        """The weights for people, and the form unless it is that of Eq. 10."""
        shown = {name: one for name, one in self.model_dump().items() if one or name not in FORM}
        return ", ".join(f"{name} {one:g}" for name, one in shown.items())


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

    A weight that is set counts, then the one that the version records, then 1; so does the form of
    the persona score in the one score, else that of Eq. 10. catalogue: whether the whole catalogue
    is ranked, without a generator. Raises IndexMismatchError if a weight of the collaborative part
    is set and the index has no such part.
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
    if options.fusion == "standard":
        recorded_form = {name: getattr(found, name) for name in FORM}
        form = {
            name: one
            for name, one in recorded_form.items()
            if name not in options.model_fields_set and one != getattr(options, name)
        }
        options = options.model_copy(update=form) if form else options
    return options, found.model_copy(update=changed)


def counted_part(index: PersonaIndex, options: RerankSettings) -> CollaborativePart | None:
    """The collaborative part of an index, if it counts in the score of lists."""
    options, weights = resolved(options, index)
    counts = options.fusion == "standard" and weights.collaborative
    return index.collaborative if counts else None
