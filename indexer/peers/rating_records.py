"""Rated pairs with the texts that a rating is predicted from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.lines import Refusals, read_lines
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Rating, Text

ItemProfile = Literal["helpful", "similar"]
"""From the most helpful reviews, or from those most like the user (EXP3RT)."""


class RatedPair(BaseModel):
    """A line of ratings.jsonl: a user, an item, the rating, and what may be read beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    user_id: Id
    item_id: Id
    rating: Rating
    user_average: Rating
    item_average: Rating
    user_profile: Text = ""
    item_description: Text = ""
    item_profile_helpful: Text = ""
    item_profile_similar: Text = ""

    def item_profile(self, kind: ItemProfile) -> str:
        """One of the two profiles of the item."""
        return self.item_profile_helpful if kind == "helpful" else self.item_profile_similar


def item_profile(name: str) -> ItemProfile:
    """A kind of profile by its name. Raises InputError."""
    match name:
        case "helpful" | "similar":
            return name
    raise InputError(f"there is no profile {name!r}: choose helpful or similar")


class _Trained(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user_id: Id
    item_id: Id
    split: str = "train"


def read_ratings(path: Path, refusals: Refusals) -> list[RatedPair]:
    """All rated pairs. Raises InputError if there is none."""
    found = [one for _, _, one in read_lines(path, RatedPair, refusals)]
    if not found:
        why = f": {refusals.sentences[0]}" if refusals.total else ""
        raise InputError(f"{path} holds no rated pair with averages{why}")
    return found


def read_trained(path: Path, refusals: Refusals) -> Iterator[tuple[str, str]]:
    """The (user, item) pairs whose `split` is train; lines without a split count."""
    for _, _, one in read_lines(path, _Trained, refusals):
        if one.split == "train":
            yield one.user_id, one.item_id
