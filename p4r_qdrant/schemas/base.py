"""What all HTTP models share, and the form of an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from p4r_qdrant.records import Text

LIMIT = "x-limit"
"""In a JSON schema: the setting of the service that says how many elements a list may have."""

MAX_TEXT = 100_000
"""Longest text, in characters."""

BoundedText = Annotated[Text, Field(max_length=MAX_TEXT)]


@dataclass(frozen=True)
class AtMost:
    """A list may be as long as a setting of the service says; looked at before its elements are.

    The settings are the context of the validation; without a context there is no limit.
    """

    setting: str
    elements: str
    owner: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """See pydantic."""
        return core_schema.with_info_before_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """See pydantic."""
        return handler(schema) | {LIMIT: self.setting}

    def _checked(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        if info.context is None or not isinstance(value, list):
            return value
        most = getattr(info.context, self.setting)
        if len(value) > most:
            raise ValueError(
                f"{len(value)} {self.elements}, but {self.owner} may have {most} "
                f"(P4R_SERVICE__{self.setting.upper()})"
            )
        return value


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
