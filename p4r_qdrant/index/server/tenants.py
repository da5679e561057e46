"""Tenants on a Qdrant server: in the same collections (see `register.py` and `scope.py`)."""

from __future__ import annotations

from p4r_qdrant.index.server import sharding
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import COLUMNS_OF
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.register import TenantRegister, tenants
from p4r_qdrant.index.server.scope import Scope
from p4r_qdrant.index.tenants import Tenant, Tenants
from p4r_qdrant.settings import Settings


class ServerTenants(Tenants):
    """The tenants of an index on a server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.location = f"the index {settings.qdrant.collection!r} on {settings.qdrant.url}"
        self._connection = Connection(settings.qdrant, self.location)

    def all(self) -> list[Tenant]:
        """See `Tenants`."""
        found = tenants(self._settings, self._connection)
        return [Tenant(name, notes["created_at"], notes["live"]) for name, notes in found.items()]

    def check(self, name: str) -> None:
        """See `Tenants`."""
        self._register(name).live()

    def add(self, name: str) -> bool:
        """See `Tenants`."""
        return self._register(name).add()

    def forget(self, name: str) -> None:
        """See `Tenants`. Shards that it had for itself go too: they are empty now."""
        listed = self._connection.call(self._connection.client.get_collections).collections
        for one in listed:
            if one.name.startswith(f"{self._settings.qdrant.collection}-"):
                sharding.demolish(self._collection(one.name, name))
        self._register(name).forget()

    def promote(self, name: str) -> dict[str, int]:
        """See `Tenants`. Its versions, their columns and user vectors, and its interactions."""
        versions = self._register(name).names()
        others = [f"{one}{part}" for one in versions for part in (COLUMNS_OF, "-users")]
        names = [*versions, *others, f"{self._settings.qdrant.collection}-interactions"]
        held = (self._collection(one, name) for one in names)
        return {one.name: sharding.promote(one) for one in held if one.exists()}

    def close(self) -> None:
        """See `Tenants`."""
        self._connection.close()

    def _register(self, name: str) -> TenantRegister:
        return TenantRegister(self._settings, self._connection, name)

    def _collection(self, collection: str, name: str) -> Collection:
        timeout_s = self._settings.qdrant.timeout_s
        return Collection(self._connection, collection, timeout_s, Scope.of(name))
