"""The settings for people: a commented p4r.toml, and the effective values with their sources."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from p4r_qdrant.settings import CONFIG_FILE, Setting, Settings

MASKED = "********"
DEFAULT = "default"
WIDTH = 88
EXAMPLES = {"number": "1.0", "whole number": "1", "text": '"..."', "path": '"..."', "secret": '""'}
"""Kind of a setting that is not set by default -> a value for p4r.toml."""


@dataclass(frozen=True)
class Effective:
    """A setting with its value and where the value comes from: a default, p4r.toml, a variable."""

    setting: Setting
    value: Any
    source: str

    @property
    def shown(self) -> str | int | float | bool | None:
        """The value as it may be printed: a secret is masked."""
        if self.value is None:
            return None
        if self.setting.is_secret:
            return MASKED
        return str(self.value) if isinstance(self.value, Path) else self.value


def effective() -> list[Effective]:
    """Every setting as it is in use here. Raises SettingsError."""
    settings = Settings.load()
    in_file = dict(_flat(_config_file()))
    variables = {name.upper(): name for name, value in os.environ.items() if value}
    return [
        Effective(one, one.value(settings), _source(one, in_file, variables))
        for one in Settings.catalogue()
    ]


def _source(setting: Setting, in_file: dict[str, Any], variables: dict[str, str]) -> str:
    name = setting.variable
    while "__" in name:
        if name in variables:
            return variables[name]
        name = name.rpartition("__")[0]  # a whole section as JSON
    place = f"{setting.section}.{setting.name}"
    if name in variables and setting.name in json.loads(os.environ[variables[name]]):
        return variables[name]
    return CONFIG_FILE if place in in_file else DEFAULT


def _config_file() -> dict[str, Any]:
    path = Path(CONFIG_FILE)
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _flat(section: dict[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, *path, name)
        else:
            yield ".".join((*path, name)), value


def template() -> str:
    """A p4r.toml with every setting, its description and its default; all are commented out."""
    lines = [
        "# Settings of p4r. Remove the # in front of a setting to change it.",
        "# Environment variables override this file: P4R_QDRANT__URL is url under [qdrant].",
        "# p4r config shows the values in use.",
    ]
    section = ""
    for one in Settings.catalogue():
        if one.section != section:
            section = one.section
            lines += ["", f"[{section}]"]
        lines += ["", *wrap(_about(one), WIDTH, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"# {one.name} = {_toml(one)}")
    return "\n".join(lines) + "\n"


def _about(setting: Setting) -> str:
    kind = " | ".join(setting.choices) if setting.choices else setting.kind
    limits = f", {setting.limits}" if setting.limits else ""
    unset = "; not set by default" if setting.default is None else ""
    return f"{setting.description} ({kind}{limits}{unset})"


def _toml(setting: Setting) -> str:
    if setting.default is None:
        return EXAMPLES[setting.kind]
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    if isinstance(setting.default, int | float):
        return repr(setting.default)
    return json.dumps(str(setting.default), ensure_ascii=False)
