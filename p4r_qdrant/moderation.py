"""Moderation: banned words and rules in a TOML file, and what a publish lets through.

The file has a list `words`, and tables `[[rules]]` with a `name`, a `pattern` (a regular
expression) and the `fields` that it is for.
"""

from __future__ import annotations

import re
import sys
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from p4r_qdrant.errors import SettingsError
from p4r_qdrant.records import NonEmptyText, Persona, StoredPersona
from p4r_qdrant.texts import plain_rationale
from p4r_qdrant.validation import validation_sentence

FIELDS = ("name", "description", "preference_rationale")
APPROVED_ONLY, HIDE_FLAGGED = "approved-only", "hide-flagged"
"""Words of `IndexMetadata.policy`."""


class Texts(Protocol):
    """Anything that has the texts of a persona."""

    @property
    def name(self) -> str:
        """See Persona."""

    @property
    def description(self) -> str:
        """See Persona."""

    @property
    def preference_rationale(self) -> str:
        """See Persona."""


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern[:60]!r} is no regular expression: {error}") from None
    return pattern


class Rule(BaseModel):
    """A rule: the texts of no persona may match its pattern, in any case of letters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: NonEmptyText
    pattern: Annotated[NonEmptyText, AfterValidator(_check_pattern)]
    fields: Annotated[
        tuple[Literal["name", "description", "preference_rationale"], ...], Field(min_length=1)
    ] = ("name", "description", "preference_rationale")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    words: list[NonEmptyText] = []
    rules: list[Rule] = []


@dataclass(frozen=True)
class Rules:
    """Banned words and rules. Words are whole words or phrases, in any case and spacing."""

    words: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @classmethod
    def load(cls, path: Path | None) -> Rules:
        """Read the file; without one there are no rules. Raises SettingsError."""
        if path is None:
            return cls()
        setting = "P4R_REASONING__RULES"
        try:
            found = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except OSError as error:
            raise SettingsError(f"{setting}: {path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise SettingsError(f"{setting}: {path}: {validation_sentence(error)}") from None
        except ValueError as error:  # no TOML, or no UTF-8
            raise SettingsError(f"{setting}: {path} is no TOML: {error}") from None
        return cls(tuple(found.words), tuple(found.rules))

    def __bool__(self) -> bool:
        return bool(self.words or self.rules)

    def problem(self, texts: Texts) -> str | None:
        """The first thing that is wrong with a persona, as "the name holds ..."; else None."""
        for field in FIELDS if self else ():
            if problem := self.problem_with(getattr(texts, field), field):
                return f"the {field} {problem}"
        return None

    def problem_with(self, text: str, field: str) -> str | None:
        """What is wrong with one text, as "holds ..."; None if nothing is."""
        plain = _plain(text)
        if self._banned is not None and (found := self._banned.search(plain)):
            return f"holds the banned words {found.group()!r}"
        for rule in self.rules:
            if field in rule.fields and re.search(rule.pattern, plain, re.IGNORECASE):
                return f"breaks the rule {rule.name!r}"
        return None

    @cached_property
    def _banned(self) -> re.Pattern[str] | None:
        if not self.words:
            return None
        phrases = (r"\s+".join(map(re.escape, _plain(one).split())) for one in self.words)
        return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)", re.IGNORECASE)


def _plain(text: str) -> str:
    """The text as people see it: compatible letters alike, nothing invisible in words."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text).translate(_invisible())


@cache
def _invisible() -> dict[int, None]:
    """The characters that people do not see, for `str.translate`."""
    every = range(sys.maxunicode + 1)
    return dict.fromkeys(one for one in every if unicodedata.category(chr(one)) == "Cf")


def withheld(
    policy: str, personas: Sequence[Persona], held: Sequence[StoredPersona]
) -> Persona | None:
    """The first persona that a version with this policy may not be given; None if it may be.

    policy: see `IndexMetadata`. held: the personas that it has of the item: they may stay.
    """
    if APPROVED_ONLY not in policy.split():
        return None
    known = {(one.name, one.description, one.preference_rationale) for one in held}
    texts = (
        (one.name, one.description, plain_rationale(one.preference_rationale)) for one in personas
    )
    return next((one for one, own in zip(personas, texts, strict=True) if own not in known), None)
