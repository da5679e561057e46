"""Files of explanations: the output of `p4r rerank`, or one explanation per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import RecordFile
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Text
from p4r_qdrant.texts import plain_rationale


class ExplainedItem(BaseModel):
    """The explanation of one item: a text, or the winning persona."""

    model_config = ConfigDict(frozen=True)

    item_id: Id
    explanation: Text = ""
    persona_name: Text = ""
    preference_rationale: Text = ""

    @property
    def text(self) -> str:
        """The explanation; empty if there is none."""
        return self.explanation or explanation(self.persona_name, self.preference_rationale)


class ExplainedLine(BaseModel):
    """A line of an explanations file: user_id, item_id, explanation; or a line of `p4r rerank`."""

    model_config = ConfigDict(frozen=True)

    user_id: Id
    results: list[ExplainedItem]

    @model_validator(mode="before")
    @classmethod
    def _one_item(cls, value: Any) -> Any:
        if isinstance(value, dict) and "results" not in value and "item_id" in value:
            return value | {"results": [value]}
        return value


def explanation(name: str, rationale: str) -> str:
    """The explanation of an item by a persona."""
    return f"{name}: {plain_rationale(rationale)}" if name and rationale else ""


class Explanations:
    """An explanations file, the first `top` items of each user; a context manager.

    Memory holds ids and places in the file, never texts. Raises InputError if the file holds no
    explanation.
    """

    def __init__(self, path: Path, refusals: Refusals, top: int | None = None) -> None:
        self._lines = RecordFile(path, ExplainedLine)
        self._offsets: dict[str, dict[str, int]] = {}
        for number, offset, line in read_lines(path, ExplainedLine, refusals):
            own = self._offsets.setdefault(line.user_id, {})
            for one in line.results:
                if one.item_id in own:
                    refusals.add(
                        f"{path}:{number}: item {one.item_id!r} is explained twice to user "
                        f"{line.user_id!r}; keep one",
                        "repeated explanation",
                    )
                elif one.text and (top is None or len(own) < top):
                    own[one.item_id] = offset
        if not any(self._offsets.values()):
            raise InputError(
                f"{path} holds no explanation: it needs lines of `p4r rerank --output`, or lines "
                'with "user_id", "item_id" and "explanation"'
            )

    def users(self) -> Sequence[str]:
        """The users with at least one explanation."""
        return [user_id for user_id, own in self._offsets.items() if own]

    def items(self, user_id: str) -> Sequence[str]:
        """The items that are explained to a user."""
        return list(self._offsets.get(user_id, ()))

    def get(self, user_id: str, item_id: str) -> str:
        """The explanation; "" if there is none."""
        offset = self._offsets.get(user_id, {}).get(item_id)
        if offset is None:
            return ""
        line = self._lines.at(offset)
        return next(one.text for one in line.results if one.item_id == item_id and one.text)

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()
