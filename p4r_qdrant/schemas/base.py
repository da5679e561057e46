"""What all HTTP models share, and the form of an error."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from p4r_qdrant.records import Text

MAX_TEXT = 100_000
"""Longest text, in characters."""

BoundedText = Annotated[Text, Field(max_length=MAX_TEXT)]


class Body(BaseModel):
    """A request, or a part of one. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(frozen=True)


class Problem(Answer):
    """An error, for programs (`code`) and for people (`message`)."""

    code: str
    message: str


class ErrorBody(Answer):
    """The body of every error answer."""

    error: Problem
    request_id: str
