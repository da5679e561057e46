"""Versions on a Qdrant server: collections, or a tenant's part of them (see `register.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress

from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.server import lease
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import ServerColumnSets
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.engine import ServerEngine
from p4r_qdrant.index.server.register import UNDONE, register_of
from p4r_qdrant.index.versions import Version, Versions, is_named, name_part
from p4r_qdrant.settings import Settings

WRITER = "writer"
"""The field of a collection's metadata that names its sole writer."""
PUBLISHES = "publishes"
"""The field of it with the number of the newest publish."""


class ServerVersions(Versions):
    """Collections `ALIAS-FINGERPRINT`. A collection with the name of the alias is the only version.

    Such a collection was made before there were versions. Its name cannot become an alias.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.alias = settings.qdrant.collection
        whose = f"the tenant {settings.index.owner!r} in " if settings.index.owner else ""
        self.location = f"{whose}the index {self.alias!r} on {settings.qdrant.url}"
        self._connection = Connection(settings.qdrant, self.location)
        self._client = self._connection.client
        try:
            self._register = register_of(settings, self._connection)
        except BaseException:
            self._connection.close()
            raise

    def live(self) -> str | None:
        """See `Versions`."""
        return self._register.live()

    def all(self) -> list[Version]:
        """See `Versions`. Collections of another alias that begins alike are not among them."""
        live = self._register.live()
        found = []
        for name in self._register.names():
            with suppress(IndexMismatchError):  # no index: user vectors, say; or just dropped
                metadata = self._metadata(name)
                if name in (self.alias, live) or is_named(name, self.named(metadata.fingerprint)):
                    found.append(Version(name, metadata))
        return sorted(found, key=lambda one: (one.metadata.created_at, one.name))

    def _metadata(self, name: str) -> IndexMetadata:
        return IndexMetadata.from_json(self._register.read(name), f"the collection {name!r}")

    def open(self, name: str, made_with: IndexMetadata | None = None) -> PersonaIndex:
        """See `Versions`."""
        engine = ServerEngine(self._settings, name, made_with)
        if made_with is None:
            return PersonaIndex(engine, name)
        return PersonaIndex.repaired(engine, name)

    def switch(self, live: Mapping[str, str], undone: str = "") -> None:
        """See `Versions`."""
        if gone := set(live.values()) - set(self._collections()):
            raise IndexMismatchError(f"there is no {min(gone)!r} in {self.location} to switch to")
        for name in live.values():
            if undone != self.undone(name):
                self._register.note(name, {UNDONE: undone})
        self._register.switch(live)

    def undone(self, live: str) -> str:
        """See `Versions`."""
        return str(self._register.read(live).get(UNDONE) or "")

    def unname(self) -> None:
        """See `Versions`."""
        self._register.unname()

    def check_switch(self, name: str) -> None:
        """See `Versions`. An alias cannot have the name of a collection."""
        if name != self.alias and self.alias in self._collections():
            raise InputError(
                f"{self.alias!r} on {self._settings.qdrant.url} is itself a collection, and "
                "its name cannot be switched to another encoder's: publish under another name "
                "(P4R_QDRANT__COLLECTION), or run `p4r migrate --backup DIR` first"
            )

    def begin_publish(self) -> int:
        """See `Versions`. The number is in the notes of every version, whichever is live."""
        names = [one.name for one in self.all()]
        number = 1 + max(map(self.publishes, names), default=0)
        for name in names:
            self._register.note(name, {PUBLISHES: number})
        return number

    def publishes(self, live: str) -> int:
        """See `Versions`."""
        return int(self._register.read(live).get(PUBLISHES) or 0)

    def sole_writer(self, name: str) -> AbstractContextManager[None]:
        """See `Versions`. The notes of the version name the writer."""

        def read() -> str:
            return str(self._register.read(name).get(WRITER) or "")

        def write(writer: str) -> None:
            self._register.note(name, {WRITER: writer})

        return lease.held(read, write, f"the collection {name!r} on {self._settings.qdrant.url}")

    def drop(self, name: str) -> None:
        """See `Versions`. A version that an alias names is in use."""
        with self.sole_writer(name):
            version = Collection(
                self._connection, name, self._settings.qdrant.timeout_s, self._register.scope
            )
            self._register.check_unused(name)
            ServerColumnSets(version, self._settings).drop()
            self._register.remove(version)

    def first(self, fingerprint: str) -> str:
        """See `Versions`."""
        return self.named(fingerprint)

    def named(self, fingerprint: str) -> str:
        """See `Versions`."""
        return f"{self.alias}-{name_part(fingerprint)}"

    def missing(self) -> str:
        """See `Versions`."""
        if tenant := self._register.scope.tenant:
            return f"the tenant {tenant!r} of {self.alias!r} has no index yet"
        return f"there is no collection {self.alias!r} on {self._settings.qdrant.url}"

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""
        self._connection.close()

    def _collections(self) -> list[str]:
        found = self._connection.call(self._client.get_collections).collections
        return [one.name for one in found]
