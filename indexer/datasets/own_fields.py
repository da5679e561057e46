"""Give the values of a caller's own fields their types, where a file holds only texts.

A filter such as {"price": {"lt": 30}} compares numbers, so "12.50" would never match. A field is
typed as a whole, when all of its values are known: "02134" among them says that it is no number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from indexer.artifacts.lines import Refusals
from indexer.datasets import values

NUMBERS_AS_TEXT = "own fields whose numbers are texts, so that lt, lte, gt and gte find nothing"
_NUMBER = re.compile(r"[-+]?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d{1,2})?|\.\d+")
_PRICE = re.compile(r"[$€£¥]\s?\d{1,3}(,?\d{3})*(\.\d+)?|\d{1,3}(,\d{3})+(\.\d+)?")
_TRUTH = {"true": True, "false": False, "yes": True, "no": False}
_NOTHING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-"}

_Kind = Literal["number", "truth value", "text"]


@dataclass
class _Field:
    """What one field held: how many values of each kind, and the first text."""

    numbers: int = 0
    fractions: int = 0
    truths: int = 0
    texts: int = 0
    odd: str = ""

    def add(self, value: str, where: str) -> None:
        stripped = value.strip()
        if stripped.lower() in _NOTHING:
            return
        if _NUMBER.fullmatch(stripped) or _PRICE.fullmatch(stripped):
            self.numbers += 1
            self.fractions += not stripped.lstrip("+-").isdigit()
        elif stripped.lower() in _TRUTH:
            self.truths += 1
        else:
            self.texts += 1
            self.odd = self.odd or f"{stripped[:40]!r} ({where})"

    @property
    def kind(self) -> _Kind:
        if self.texts or (self.numbers and self.truths):
            return "text"
        if self.numbers:
            return "number"
        return "truth value" if self.truths else "text"

    def typed(self, value: str) -> Any:
        """A value in the type of the field; None for nothing."""
        stripped = value.strip()
        if stripped.lower() in _NOTHING:
            return None
        if self.kind == "truth value":
            return _TRUTH[stripped.lower()]
        if _NUMBER.fullmatch(stripped):
            return float(stripped) if self.fractions else int(stripped)
        return values.number(stripped)


class OwnFields:
    """The own fields of items."""

    def __init__(self) -> None:
        self._fields: dict[str, _Field] = {}
        self._texts: dict[str, _Field] = {}

    def see(self, where: str, own: Mapping[str, Any], *, only_texts: bool) -> None:
        """Note the values of an item; only_texts: of a file that has no other type."""
        fields = self._fields if only_texts else self._texts
        for name, value in own.items():
            if isinstance(value, str):
                fields.setdefault(name, _Field()).add(value, where)

    @property
    def numbers_as_text(self) -> list[str]:
        """The fields whose values are all texts of numbers, in files that could hold numbers."""
        return [name for name, one in self._texts.items() if one.kind == "number"]

    def typed(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines of items.jsonl with typed values."""
        fields = {name: one for name, one in self._fields.items() if one.kind != "text"}
        if not fields:
            yield from lines
            return
        for line in lines:
            record = json.loads(line)
            for name, field in fields.items():
                if isinstance(value := record.get(name), str):
                    record[name] = field.typed(value)
            yield json.dumps(record, ensure_ascii=False, allow_nan=False)

    def tell(self, refusals: Refusals) -> None:
        """Note which fields are typed, and which are nearly numbers."""
        for kind in ("number", "truth value"):
            names = [name for name, one in self._fields.items() if one.kind == kind]
            if names:
                refusals.note(f"own fields read as {kind}s: {', '.join(names)}")
        if self.numbers_as_text:
            refusals.note(f"{NUMBERS_AS_TEXT}: {', '.join(self.numbers_as_text)}")
        for name, one in self._fields.items():
            if one.numbers > one.texts > 0:
                refusals.note(
                    f"own field {name!r} stays text, for {one.odd} is no number: a filter with lt, "
                    "lte, gt or gte finds nothing in it"
                )
