"""Lists every setting with its name, type, limits, default and description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from p4r_qdrant.settings.section import PREFIX

_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "path",
    SecretStr: "secret",
    str: "text",
}
_BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    variable: the environment variable, `P4R_QDRANT__URL`. section and name: its place in p4r.toml,
    `url` under `[qdrant]`. kind: its type in words. choices: the allowed texts, if only some are.
    limits: the bounds of a number, `>= 1, <= 65535`. default: None if it is not set by default.
    """

    variable: str
    section: str
    name: str
    kind: str
    choices: tuple[str, ...]
    limits: str
    default: Any
    description: str

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.kind == _KINDS[SecretStr]

    def value(self, settings: BaseModel) -> Any:
        """The value of this setting in `settings`."""
        found: Any = settings
        for part in (*self.section.split("."), self.name):
            found = getattr(found, part)
        return found


def settings_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """All settings of a model and of the sections in it, in the order of their definition."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, (*path, name))
        else:
            yield _setting((*path, name), field)


def _setting(path: tuple[str, ...], field: FieldInfo) -> Setting:
    types = get_args(field.annotation) or (field.annotation,)
    choices = types if get_origin(field.annotation) is Literal else ()
    return Setting(
        variable=PREFIX + "__".join(path).upper(),
        section=".".join(path[:-1]),
        name=path[-1],
        kind="one of" if choices else next(_KINDS[one] for one in types if one in _KINDS),
        choices=choices,
        limits=", ".join(
            form.format(getattr(bound, name))
            for bound in field.metadata
            for name, form in _BOUNDS.items()
            if getattr(bound, name, None) is not None
        ),
        default=field.get_default(call_default_factory=True, validated_data={}),
        description=field.description or "",
    )
