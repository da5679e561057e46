"""The two ends of a copy: a Qdrant server by its address, an embedded index by its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import Settings


@dataclass(frozen=True)
class Place:
    """An end of a copy as the command line names it.

    where: an address (http:// or https://) or a folder. collection: the name of the index on a
    server; None: that of the settings. key_variable: the environment variable with the API key.
    """

    where: str
    collection: str | None = None
    key_variable: str | None = None

    def settings(self) -> Settings:
        """The settings with this index in place of theirs.

        P4R_QDRANT__API_KEY and the gRPC port belong to P4R_QDRANT__URL and go to no other address;
        there the gRPC port is the one after the port of the address. Raises SettingsError, and
        InputError if the variable is not set, or if a folder gets a collection or a key.
        """
        if "://" not in self.where:
            if self.collection is not None or self.key_variable is not None:
                raise InputError(
                    f"{self.where} is a folder, and only a Qdrant server has a collection and a "
                    "key; omit them, or give an address (http://host:6333)"
                )
            return Settings.load(qdrant={"url": None, "path": Path(self.where)})
        qdrant: dict[str, Any] = {"url": self.where}
        if self.collection is not None:
            qdrant["collection"] = self.collection
        if not self._is_that_of_the_settings():
            qdrant |= {"api_key": "", "grpc_port": self._next_port()}
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable)
            if not key:
                raise InputError(
                    f"the environment variable {self.key_variable} is not set; it is to hold the "
                    f"API key of {self.where}"
                )
            qdrant["api_key"] = key
        return Settings.load(qdrant=qdrant)

    def _is_that_of_the_settings(self) -> bool:
        url = Settings.load().qdrant.url
        return url == self.where.rstrip("/")

    def _next_port(self) -> int:
        try:
            port = urlsplit(self.where).port
        except ValueError:  # the settings say what is wrong with it
            port = None
        return (port or 6333) + 1


def check_outside(settings: Settings, folder: Path) -> None:
    """Raise InputError if a folder is in that of the embedded index that the settings name."""
    if settings.qdrant.url is None and _is_in(folder, settings.qdrant.path):
        raise InputError(
            f"{folder} is in the folder of the index, {settings.qdrant.path}; name another folder"
        )


def check_apart(source: Settings, target: Settings) -> None:
    """Raise InputError if two embedded indexes are one, or one lies in the folder of the other."""
    if source.qdrant.url is not None or target.qdrant.url is not None:
        return
    here, there = source.qdrant.path, target.qdrant.path
    if here.resolve() == there.resolve():
        raise InputError(f"both ends of the copy are the folder {here}; name two places")
    if _is_in(here, there) or _is_in(there, here):
        raise InputError(
            f"{here} and {there} are inside one another; name two places that are apart"
        )


def _is_in(folder: Path, other: Path) -> bool:
    return folder.resolve().is_relative_to(other.resolve())
