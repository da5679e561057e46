"""Find and render the prompt templates of a domain, in prompts/<domain>/.

A template has a system and a user part, separated by a line of three hyphens. Texts from outside
go into the user part, between two marks that they cannot contain.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from p4r_qdrant.errors import InputError
from p4r_qdrant.resources import resource

GENERIC = "products"
"""The domain whose templates are used if a domain has none of its own."""

_DIVIDER = "\n---\n"


@dataclass(frozen=True)
class Slot:
    """An aspect slot: its name in the artifacts, and what the prompt asks for."""

    name: str
    asks: str


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. Texts from outside are only in `user`."""

    system: str
    user: str


class LazyPrompt:
    """A prompt that is rendered when its text is first needed."""

    def __init__(self, render: Callable[[], Prompt]) -> None:
        self._render = render

    @cached_property
    def _prompt(self) -> Prompt:
        return self._render()

    @property
    def system(self) -> str:
        """The system message."""
        return self._prompt.system

    @property
    def user(self) -> str:
        """The user message."""
        return self._prompt.user


@dataclass(frozen=True)
class Domain:
    """The words and templates of a domain. Raises InputError if the folder is incomplete."""

    name: str
    item: str
    person: str
    slots: tuple[Slot, ...]
    folder: Path
    _templates: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, name: str) -> Domain:
        """The domain `name`: a folder in prompts/, or the path of one elsewhere."""
        folder = Path(name) if "/" in name else _prompts() / name
        path = folder / "domain.toml"
        try:
            words = tomllib.loads(path.read_text(encoding="utf-8"))
            slots = tuple(Slot(str(one["name"]), str(one["asks"])) for one in words["slots"])
            return cls(folder.name, str(words["item"]), str(words["person"]), slots, folder)
        except FileNotFoundError:
            known = ", ".join(sorted(one.parent.name for one in _prompts().glob("*/domain.toml")))
            raise InputError(
                f"there is no domain {name!r} (known: {known}); a domain is a folder with a "
                "domain.toml"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is broken: {error!r}") from None

    def template(self, step: str) -> str:
        """The text of a step's template, of this domain or the generic one; read once."""
        if (known := self._templates.get(step)) is not None:
            return known
        for folder in (self.folder, _prompts() / GENERIC):
            path = folder / f"{step}.md"
            if path.is_file():
                return self._templates.setdefault(step, path.read_text(encoding="utf-8"))
        raise InputError(f"neither {self.folder} nor the generic domain has a {step}.md")

    def version(self, step: str) -> str:
        """The version of a step's template: a hash of its text."""
        return hashlib.sha256(self.template(step).encode()).hexdigest()[:12]

    def render(self, step: str, *, material: str, language: str, **values: Any) -> Prompt:
        """The prompt of a step; `material` holds all text from outside, between marks.

        Raises InputError if the template names an unknown value.
        """
        system, divided, user = self.template(step).partition(_DIVIDER)
        if not divided:
            raise InputError(f"the template {step}.md has no line of three hyphens")
        # The marks are a hash of the material, so the material cannot contain them.
        mark = hashlib.sha256(material.encode()).hexdigest()[:12]
        known = {
            "item": self.item,
            "person": self.person,
            "language": language,
            "open": f"<material-{mark}>",
            "close": f"</material-{mark}>",
            **{name: str(value) for name, value in values.items()},
        }
        try:
            return Prompt(
                Template(system).substitute(known).strip(),
                Template(user).substitute(known | {"material": material}).strip(),
            )
        except (KeyError, ValueError) as error:
            raise InputError(f"the template {step}.md names {error}, which is not known") from None


def _prompts() -> Path:
    return resource("prompts")
