"""Reads the settings: arguments over the environment over p4r.toml."""

from __future__ import annotations

import difflib
import logging
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pydantic_settings
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from p4r_qdrant.errors import InputError, SettingsError
from p4r_qdrant.settings.catalogue import Setting, settings_of
from p4r_qdrant.settings.collaborative import CollaborativeSettings
from p4r_qdrant.settings.encoder import EncoderSettings, HistorySettings
from p4r_qdrant.settings.index import (
    NO_TENANT_NAME,
    IndexSettings,
    QdrantSettings,
    is_tenant_name,
)
from p4r_qdrant.settings.llm import LLMSettings
from p4r_qdrant.settings.reasoning import ReasoningSettings
from p4r_qdrant.settings.rerank import RerankSettings
from p4r_qdrant.settings.section import PREFIX
from p4r_qdrant.settings.service import ServiceSettings
from p4r_qdrant.settings.training import TrainingSettings

RESERVED = f"{PREFIX}TEST_"
CONFIG_FILE = "p4r.toml"

TENANTS = "tenants"
"""The folder of the tenants in that of the embedded index."""
_NAMED: ContextVar[str] = ContextVar("tenant", default="")

_log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """All settings, by section. `Settings.load()` reads them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        toml_file=CONFIG_FILE,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    qdrant: QdrantSettings = Field(default_factory=QdrantSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    history: HistorySettings = Field(default_factory=HistorySettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    collaborative: CollaborativeSettings = Field(default_factory=CollaborativeSettings)
    rerank: RerankSettings = Field(default_factory=RerankSettings)
    reasoning: ReasoningSettings = Field(default_factory=ReasoningSettings)
    llm: LLMSettings = Field(default_factory=LLMSettings)
    service: ServiceSettings = Field(default_factory=ServiceSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources, strongest first: arguments, the environment, p4r.toml."""
        return init_settings, env_settings, _ConfigFile(settings_cls)

    @classmethod
    def catalogue(cls) -> list[Setting]:
        """Every setting with its type, limits, default and description, section by section."""
        return list(settings_of(cls))

    def of_tenant(self, name: str) -> Settings:
        """The same settings for another tenant. Raises InputError for what is no name of one."""
        if not is_tenant_name(name):
            raise InputError(NO_TENANT_NAME)
        index = self.index.model_copy(update={"tenant": name})
        return self.model_copy(update={"index": index})

    @property
    def folder(self) -> Path:
        """The folder of the embedded index that is meant: `qdrant.path`, or a tenant's within it.

        Raises InputError if there are tenants and none is named.
        """
        tenant = self.index.owner
        return self.qdrant.path / TENANTS / tenant if tenant else self.qdrant.path

    @classmethod
    def load(cls, **sections: dict[str, Any]) -> Settings:
        """Read the environment and p4r.toml; `sections` (`qdrant={"url": ...}`) override both.

        Within `naming_tenant`, that tenant is meant.

        Raises SettingsError that names every wrong setting and never shows its value.
        """
        _refuse_unknown_names()
        _warn_of_writers(Path(CONFIG_FILE).absolute())
        if tenant := _NAMED.get():
            sections = {**sections, "index": {**sections.get("index", {}), "tenant": tenant}}
        try:
            return cls(**sections)  # type: ignore[arg-type]
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from None
        except pydantic_settings.SettingsError:  # a whole section as one variable
            names = ", ".join(f"{PREFIX}{name}".upper() for name in cls.model_fields)
            raise SettingsError(
                f"one of {names} is set and is not JSON; set single values, such as P4R_QDRANT__URL"
            ) from None
        except (OSError, ValueError) as error:  # p4r.toml that is no TOML, or no UTF-8
            raise SettingsError(f"{CONFIG_FILE} cannot be read: {error}") from None


@contextmanager
def naming_tenant(name: str) -> Iterator[None]:
    """Context manager: settings that are loaded in it mean this tenant. Raises InputError."""
    if not is_tenant_name(name):
        raise InputError(f"--tenant: {NO_TENANT_NAME}")
    token = _NAMED.set(name)
    try:
        yield
    finally:
        _NAMED.reset(token)


class _ConfigFile(TomlConfigSettingsSource):
    """p4r.toml, also with the byte order mark that some editors write."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"))


@cache  # once for a process
def _warn_of_writers(path: Path) -> None:
    with suppress(OSError):
        if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
            _log.warning(
                "every user of this machine can change %s, and so where keys and texts are sent; "
                "run `chmod o-w %s`",
                path,
                CONFIG_FILE,
            )


@cache
def known_names() -> frozenset[str]:
    """The environment variables of all settings and sections."""
    names = {setting.variable for setting in Settings.catalogue()}
    return frozenset(names | {name.rsplit("__", 1)[0] for name in names})


def _refuse_unknown_names() -> None:
    known = known_names()
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper.startswith(RESERVED) or upper in known:
            continue
        raise SettingsError(f"the environment variable {name} is not known{_nearest(upper, known)}")


def _nearest(name: str, known: frozenset[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else "; unset it"


def _sentence(error: ValidationError) -> str:
    """Every problem of a validation error, by the name that the user gave, without the value."""
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        path = [str(part) for part in problem["loc"]]
        name = PREFIX + "__".join(path).upper()
        where = f"{name} (in {CONFIG_FILE}: {'.'.join(path)})"
        if problem["type"] == "extra_forbidden":
            problems.append(f"{where} is not known{_nearest(name, known_names())}")
        elif problem["type"] == "model_type":
            problems.append(f"{where} is a section: set single names in it, not the section")
        else:
            problems.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
