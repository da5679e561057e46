"""Versions of the embedded engine: folders, and a file that names the live one.

    PATH/                         the first version
    PATH/version-FINGERPRINT/     the others
    PATH/current.json             {"personas": the live one, "undone": see `Versions.undone`}; not
                                  there: the first

Each is a whole index (see `folder.py`) with its own lock: one process can fill a version
while another process serves from another version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from p4r_qdrant.errors import IndexLockedError, IndexMismatchError
from p4r_qdrant.file_lock import take
from p4r_qdrant.index.edge.engine import EdgeEngine
from p4r_qdrant.index.edge.folder import (
    COLUMNS,
    LOCK,
    MANIFEST,
    PUBLISHES,
    VERSION,
    WRITER,
    EdgeFolder,
    failure,
)
from p4r_qdrant.index.edge.sums import BEFORE, SUMS
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.versions import Version, Versions, name_part
from p4r_qdrant.settings import Settings
from p4r_qdrant.whole_files import write_whole

CURRENT = "current.json"
UNDONE = "undone"
FIRST = "first"
"""The version that is the folder itself."""
DROPPED = "dropped-"
"""The prefix of a version's folder while it is being deleted."""


class EdgeVersions(Versions):
    """The folder of the settings, and what lies in it."""

    alias = "personas"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.folder
        self.location = f"the folder {self._folder}"

    def live(self) -> str | None:
        """See `Versions`."""
        path = self._folder / CURRENT
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return FIRST if self._is_there(FIRST) else None
        except OSError as error:
            raise failure(self.location, str(error)) from None
        try:
            name = json.loads(text)[self.alias]
            if name != FIRST and (Path(name).name != name or not name.startswith(VERSION)):
                raise ValueError(f"{name!r} is no version")
        except (ValueError, KeyError, TypeError) as error:
            raise IndexMismatchError(
                f"{path} is broken ({error}); write into it the version to use, as in "
                f'{{"{self.alias}": "{FIRST}"}}'
            ) from None
        return str(name)

    def all(self) -> list[Version]:
        """See `Versions`."""
        found = []
        for name in self.names():
            path = self.path(name) / MANIFEST
            with suppress(OSError, ValueError, KeyError, TypeError, IndexMismatchError):
                stored = json.loads(path.read_bytes())["metadata"]
                found.append(Version(name, IndexMetadata.from_json(stored, str(path))))
        return sorted(found, key=lambda one: (one.metadata.created_at, one.name))

    def names(self) -> list[str]:
        """The names of the versions, also of those that cannot be read."""
        names = [FIRST, *sorted(path.name for path in self._folder.glob(f"{VERSION}*"))]
        return list(filter(self._is_there, names))

    def open(self, name: str, made_with: IndexMetadata | None = None) -> PersonaIndex:
        """See `Versions`."""
        engine = EdgeEngine(self._settings.index, self.path(name), made_with)
        return PersonaIndex.repaired(engine, name)

    def switch(self, live: Mapping[str, str], undone: str = "") -> None:
        """See `Versions`. The file is written whole and renamed."""
        path = self._folder / CURRENT
        for name in live.values():
            if not self._is_there(name):
                raise IndexMismatchError(f"there is no {name!r} in {self.location} to switch to")
        try:
            stored = json.loads(path.read_bytes()) if path.exists() else {}
            write_whole(path, json.dumps(stored | dict(live) | {UNDONE: undone}))
        except OSError as error:
            raise failure(self.location, str(error)) from None

    def undone(self, live: str) -> str:
        """See `Versions`."""
        path = self._folder / CURRENT
        try:
            stored = json.loads(path.read_bytes())
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise failure(self.location, str(error)) from None
        return str(stored.get(UNDONE) or "") if stored.get(self.alias) == live else ""

    def unname(self) -> None:
        """See `Versions`. Afterwards the first version is live, if it is there."""
        try:
            (self._folder / CURRENT).unlink(missing_ok=True)
        except OSError as error:
            raise failure(self.location, str(error)) from None

    def check_switch(self, name: str) -> None:
        """See `Versions`. Every version can be made live, but not in a folder of other files."""
        del name
        if not self.names() and not (self._folder / CURRENT).exists():
            EdgeFolder(self._folder).read_manifest()

    def begin_publish(self) -> int:
        """See `Versions`. The number is in a file beside all versions."""
        number = self.publishes(FIRST) + 1
        try:
            write_whole(self._folder / PUBLISHES, str(number))
        except OSError as error:
            raise failure(self.location, str(error)) from None
        return number

    def publishes(self, live: str) -> int:
        """See `Versions`."""
        del live
        try:
            text = (self._folder / PUBLISHES).read_text()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise failure(self.location, str(error)) from None
        return int(text) if text.isdecimal() else 0

    @contextmanager
    def sole_writer(self, name: str) -> Iterator[None]:
        """See `Versions`. It has its own lock, since a reader opens the version once it is live."""
        try:
            lock = take(self.path(name) / WRITER)
        except OSError as error:
            raise failure(self.location, str(error)) from None
        if lock is None:
            raise IndexLockedError(
                f"{self.path(name)} is being written by another publish; wait for that one"
            )
        with lock:
            yield

    def drop(self, name: str) -> None:
        """See `Versions`."""
        if not self._is_there(name):
            raise IndexMismatchError(f"there is no {name!r} in {self.location} to drop")
        with self.sole_writer(name):
            self._drop(name)

    def _drop(self, name: str) -> None:
        doomed = self._folder / f"{DROPPED}{name}"
        version = EdgeFolder(self.path(name))
        version.lock()
        try:
            version.check_unused()
            if name == FIRST:
                doomed.mkdir(exist_ok=True)
                for one in (
                    MANIFEST,
                    SUMS,
                    BEFORE,
                    "shard-*",
                    f"{COLUMNS}*",
                    "rows.*",
                    LOCK,
                    WRITER,
                ):
                    for path in self._folder.glob(one):
                        path.rename(doomed / path.name)
            else:
                (self._folder / name).rename(doomed)
            for path in self._folder.glob(f"{DROPPED}*"):  # and those that a kill left
                shutil.rmtree(path)
        except OSError as error:
            raise failure(self.location, str(error)) from None
        finally:
            version.unlock()
        with suppress(OSError):  # something else is in it
            if not self.names():
                (self._folder / PUBLISHES).unlink(missing_ok=True)
            self._folder.rmdir()

    def first(self, fingerprint: str) -> str:
        """See `Versions`."""
        del fingerprint
        return FIRST

    def named(self, fingerprint: str) -> str:
        """See `Versions`."""
        return f"{VERSION}{name_part(fingerprint)}"

    def missing(self) -> str:
        """See `Versions`."""
        return f"there is no persona index in {self.location}"

    def path(self, name: str) -> Path:
        """The folder of a version."""
        return self._folder if name == FIRST else self._folder / name

    def _is_there(self, name: str) -> bool:
        try:
            return (self.path(name) / MANIFEST).exists()
        except OSError as error:
            raise failure(self.location, str(error)) from None
