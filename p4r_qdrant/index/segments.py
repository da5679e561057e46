"""The segments of a version's personas, as the version keeps them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class Example(BaseModel):
    """A persona in the middle of a segment."""

    model_config = ConfigDict(frozen=True)

    item_id: str
    persona_id: str
    name: str


class Segment(BaseModel):
    """A cluster of personas.

    id: stays the same where the cluster does. personas, items: how many. users: how many users are
    nearest to it; None if nobody counted, or if they are too few to be told.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    personas: int
    items: int
    users: int | None = None
    share: float | None = None
    examples: tuple[Example, ...] = ()


_ALL = TypeAdapter(tuple[Segment, ...])


def to_text(segments: tuple[Segment, ...]) -> str:
    """The form in the metadata of a version."""
    return _ALL.dump_json(segments).decode()


def from_text(text: str) -> tuple[Segment, ...]:
    """Read the stored form; empty if there is none, or one that this release does not know."""
    try:
        return _ALL.validate_json(text) if text else ()
    except ValidationError:
        return ()
