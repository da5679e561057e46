"""Versions on a Qdrant server: collections, and the alias that names the live one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from qdrant_client import models

from p4r_qdrant.errors import AuthenticationError, IndexLockedError, IndexMismatchError, InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.server import lease
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import ServerColumnSets, is_set
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.engine import ServerEngine
from p4r_qdrant.index.versions import Version, Versions, is_named, name_part
from p4r_qdrant.settings import Settings

WRITER = "writer"
"""The field of a collection's metadata that names its sole writer."""
PUBLISHES = "publishes"
"""The field of it with the number of the newest publish."""
UNDONE = "undone"
"""The field of it with the version that a rollback to this one took out of use."""
PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Pauses after which views of the server that disagree are read again."""


class ServerVersions(Versions):
    """Collections `ALIAS-FINGERPRINT`. A collection with the name of the alias is the only version.

    Such a collection was made before there were versions. Its name cannot become an alias.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.alias = settings.qdrant.collection
        self.location = f"the index {self.alias!r} on {settings.qdrant.url}"
        self._connection = Connection(settings.qdrant, self.location)
        self._client = self._connection.client

    def live(self) -> str | None:
        """See `Versions`. The alias is resolved, and a collection of its name is itself."""
        for pause_s in (*PAUSES_S, None):
            # Read one after the other, so they can disagree while somebody makes the index.
            if target := self._aliases().get(self.alias):
                return target
            if not self._exists(self.alias):
                return None
            if self.alias in self._collections():
                return self.alias
            if pause_s is not None:
                time.sleep(pause_s)
        # A key for single collections sees an alias only if it may see the collection, too.
        raise AuthenticationError(
            f"{self.location} is an alias, and the API key may not see its collection; allow it to "
            f"read that collection and those that begin with {self.alias}-"
        )

    def all(self) -> list[Version]:
        """See `Versions`. Collections of another alias that begins alike are not among them."""
        live = self._aliases().get(self.alias)
        found = []
        for name in self._collections():
            ours = name in (self.alias, live)
            if not ours and (not name.startswith(f"{self.alias}-") or is_set(name)):
                continue
            with suppress(IndexMismatchError):  # no index: user vectors, say; or just dropped
                metadata = self._metadata(name)
                if ours or is_named(name, self.named(metadata.fingerprint)):
                    found.append(Version(name, metadata))
        return sorted(found, key=lambda one: (one.metadata.created_at, one.name))

    def _metadata(self, name: str) -> IndexMetadata:
        return IndexMetadata.from_json(self._noted(name), f"the collection {name!r}")

    def open(self, name: str, made_with: IndexMetadata | None = None) -> PersonaIndex:
        """See `Versions`."""
        engine = ServerEngine(self._settings, name, made_with)
        if made_with is None:
            return PersonaIndex(engine, name)
        return PersonaIndex.repaired(engine, name)

    def switch(self, live: Mapping[str, str], undone: str = "") -> None:
        """See `Versions`. One operation an alias: deleted and then made, it could get lost."""
        if gone := set(live.values()) - set(self._collections()):
            raise IndexMismatchError(f"there is no {min(gone)!r} in {self.location} to switch to")
        for name in live.values():
            if undone != self.undone(name):
                self._note(name, {UNDONE: undone})
        operations: list[Any] = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=name, alias_name=alias)
            )
            for alias, name in live.items()
            if alias != name
        ]
        self._connection.call(partial(self._client.update_collection_aliases, operations))

    def undone(self, live: str) -> str:
        """See `Versions`."""
        return str(self._noted(live).get(UNDONE) or "")

    def unname(self) -> None:
        """See `Versions`."""
        alias = models.DeleteAlias(alias_name=self.alias)
        operations: list[Any] = [models.DeleteAliasOperation(delete_alias=alias)]
        self._connection.call(partial(self._client.update_collection_aliases, operations))

    def check_switch(self, name: str) -> None:
        """See `Versions`. An alias cannot have the name of a collection."""
        if name != self.alias and self.alias in self._collections():
            raise InputError(
                f"{self.alias!r} on {self._settings.qdrant.url} is itself a collection, and "
                "its name cannot be switched to another encoder's: publish under another name "
                "(P4R_QDRANT__COLLECTION), or run `p4r migrate --backup DIR` first"
            )

    def begin_publish(self) -> int:
        """See `Versions`. The number is in the metadata of every version, whichever is live."""
        names = [one.name for one in self.all()]
        number = 1 + max(map(self.publishes, names), default=0)
        for name in names:
            self._note(name, {PUBLISHES: number})
        return number

    def publishes(self, live: str) -> int:
        """See `Versions`."""
        return int(self._noted(live).get(PUBLISHES) or 0)

    def _noted(self, name: str) -> Mapping[str, Any]:
        info = self._connection.call(partial(self._client.get_collection, name))
        return info.config.metadata or {}

    def _note(self, name: str, changes: dict[str, Any]) -> None:
        self._connection.call(partial(self._client.update_collection, name, metadata=changes))

    def sole_writer(self, name: str) -> AbstractContextManager[None]:
        """See `Versions`. The collection's metadata names the writer."""

        def read() -> str:
            return str(self._noted(name).get(WRITER) or "")

        def write(writer: str) -> None:
            self._note(name, {WRITER: writer})

        return lease.held(read, write, f"the collection {name!r} on {self._settings.qdrant.url}")

    def drop(self, name: str) -> None:
        """See `Versions`. A version that an alias names is in use."""
        with self.sole_writer(name):
            if name in self._aliases().values():
                raise IndexLockedError(f"the collection {name!r} is named by an alias; it stays")
            version = Collection(self._connection, name, self._settings.qdrant.timeout_s)
            ServerColumnSets(version, self._settings).drop()
            self._connection.call(partial(self._client.delete_collection, name))

    def first(self, fingerprint: str) -> str:
        """See `Versions`."""
        return self.named(fingerprint)

    def named(self, fingerprint: str) -> str:
        """See `Versions`."""
        return f"{self.alias}-{name_part(fingerprint)}"

    def missing(self) -> str:
        """See `Versions`."""
        return f"there is no collection {self.alias!r} on {self._settings.qdrant.url}"

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""
        self._connection.close()

    def _exists(self, name: str) -> bool:
        return self._connection.call(partial(self._client.collection_exists, name))

    def _aliases(self) -> dict[str, str]:
        found = self._connection.call(self._client.get_aliases).aliases
        return {one.alias_name: one.collection_name for one in found}

    def _collections(self) -> list[str]:
        found = self._connection.call(self._client.get_collections).collections
        return [one.name for one in found]
