"""Where it is noted which version is live, and how each version was made.

Without tenants an alias names the live version, and the metadata of a version's collection holds
the notes. With tenants several of them have their version in one collection. So the notes are
points of one more collection, ALIAS-tenants: one for each tenant, which names its live version,
and one for each version of a tenant.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from qdrant_client import models

from p4r_qdrant.errors import (
    AuthenticationError,
    IndexLockedError,
    IndexMismatchError,
    UnknownTenantError,
)
from p4r_qdrant.index.metadata import PROJECT, today
from p4r_qdrant.index.payload import TENANT
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import is_set
from p4r_qdrant.index.server.connection import Connection
from p4r_qdrant.index.server.scope import TENANT_INDEX, Scope
from p4r_qdrant.settings import Settings

UNDONE = "undone"
"""The note of a version with the version that a rollback to this one took out of use."""
PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Pauses after which views of the server that disagree are read again."""
FOR_TENANTS = "tenants"
"""The field of the metadata of a collection that tenants share."""
HOLDS = "holds"
"""The field of a note that says of what it is: a tenant, or a version of one."""
NOTES_INDEXES: dict[str, Any] = {
    TENANT: TENANT_INDEX,
    HOLDS: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
}
"""The payload indexes of the collection with the tenants."""
_SPACE = uuid.UUID("0b4f7e2a-6a35-4c63-8d0e-5f6d3f7b9f21")


class Register(Protocol):
    """The notes of the index, or of a tenant's part of it."""

    scope: Scope

    def live(self) -> str | None:
        """The name of the live version, or None if there is none."""

    def names(self) -> list[str]:
        """The names of collections that may be versions."""

    def switch(self, live: Mapping[str, str]) -> None:
        """Make versions live in one step: alias -> name."""

    def unname(self) -> None:
        """Take the name of the live version away."""

    def read(self, name: str) -> Mapping[str, Any]:
        """The notes of a version; empty if there are none."""

    def note(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change some notes of a version."""

    def check_unused(self, name: str) -> None:
        """Raise IndexLockedError if a version is live."""

    def remove(self, version: Collection) -> None:
        """Delete a version and its notes."""


def register_of(settings: Settings, connection: Connection) -> Register:
    """The register of the tenant that the settings name, or of an index without tenants."""
    tenant = settings.index.owner
    if tenant:
        return TenantRegister(settings, connection, tenant)
    return AliasRegister(settings, connection)


class AliasRegister:
    """See `Register`. Aliases, and the metadata of collections."""

    scope = Scope()

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.client
        self._alias = settings.qdrant.collection
        self._where = f"the index {self._alias!r} on {settings.qdrant.url}"

    def live(self) -> str | None:
        """See `Register`. The alias is resolved, and a collection of its name is itself."""
        for pause_s in (*PAUSES_S, None):
            # Read one after the other, so they can disagree while somebody makes the index.
            if target := self._aliases().get(self._alias):
                return target
            if not self._exists(self._alias):
                self._check_no_tenants()
                return None
            if self._alias in self._collections():
                return self._alias
            if pause_s is not None:
                time.sleep(pause_s)
        # A key for single collections sees an alias only if it may see the collection, too.
        raise AuthenticationError(
            f"{self._where} is an alias, and the API key may not see its collection; allow it to "
            f"read that collection and those that begin with {self._alias}-"
        )

    def _check_no_tenants(self) -> None:
        if self._exists(tenants_of(self._alias)):
            raise IndexMismatchError(
                f"{self._where} was made for tenants: set P4R_INDEX__TENANTS=true, or choose "
                "another name (P4R_QDRANT__COLLECTION)"
            )

    def names(self) -> list[str]:
        """See `Register`: all collections of the index, and those of others that begin alike."""
        live = self._aliases().get(self._alias)
        return [
            one
            for one in self._collections()
            if one in (self._alias, live) or (one.startswith(f"{self._alias}-") and not is_set(one))
        ]

    def switch(self, live: Mapping[str, str]) -> None:
        """See `Register`. One operation an alias: deleted and then made, it could get lost."""
        operations: list[Any] = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=name, alias_name=alias)
            )
            for alias, name in live.items()
            if alias != name
        ]
        self._connection.call(partial(self._client.update_collection_aliases, operations))

    def unname(self) -> None:
        """See `Register`."""
        alias = models.DeleteAlias(alias_name=self._alias)
        operations: list[Any] = [models.DeleteAliasOperation(delete_alias=alias)]
        self._connection.call(partial(self._client.update_collection_aliases, operations))

    def read(self, name: str) -> Mapping[str, Any]:
        """See `Register`."""
        info = self._connection.call(partial(self._client.get_collection, name))
        notes = info.config.metadata or {}
        if notes.get(FOR_TENANTS):
            raise IndexMismatchError(
                f"the collection {name!r} was made for tenants: set P4R_INDEX__TENANTS=true, or "
                "choose another name (P4R_QDRANT__COLLECTION)"
            )
        return notes

    def note(self, name: str, changes: Mapping[str, Any]) -> None:
        """See `Register`."""
        self._connection.call(partial(self._client.update_collection, name, metadata=dict(changes)))

    def check_unused(self, name: str) -> None:
        """See `Register`. A version that an alias names is in use, also if it is another's."""
        if name in self._aliases().values():
            raise IndexLockedError(f"the collection {name!r} is named by an alias; it stays")

    def remove(self, version: Collection) -> None:
        """See `Register`."""
        self._connection.call(partial(self._client.delete_collection, version.name))

    def _collections(self) -> list[str]:
        found = self._connection.call(self._client.get_collections).collections
        return [one.name for one in found]

    def _exists(self, name: str) -> bool:
        return self._connection.call(partial(self._client.collection_exists, name))

    def _aliases(self) -> dict[str, str]:
        found = self._connection.call(self._client.get_aliases).aliases
        return {one.alias_name: one.collection_name for one in found}


class TenantRegister:
    """See `Register`. Points of the collection ALIAS-tenants."""

    def __init__(self, settings: Settings, connection: Connection, tenant: str) -> None:
        self._settings = settings
        self._connection = connection
        self._alias = settings.qdrant.collection
        self._where = f"the index {self._alias!r} on {settings.qdrant.url}"
        self._tenant = tenant
        self.scope = Scope.of(tenant)
        self._notes = Collection(
            connection, tenants_of(self._alias), settings.qdrant.timeout_s, self.scope
        )

    # -- tenants ------------------------------------------------------------------------------

    def add(self) -> bool:
        """Add the tenant; False if it exists. Raises IndexMismatchError for other indexes."""
        check_for_tenants(self._settings, self._connection)
        self._notes.make(
            self._settings.index,
            vectors_config={},
            on_disk_payload=True,
            metadata={"project": PROJECT},
        )
        self._notes.index_fields(NOTES_INDEXES)
        if self._tenant_notes() is not None:
            return False
        fresh = {HOLDS: "tenant", "live": "", "created_at": today()}
        self._notes.insert([self._point("tenant", fresh)])
        return True

    def forget(self) -> None:
        """Delete the notes of the tenant."""
        self._notes.delete(models.Filter())

    def _known(self) -> Mapping[str, Any]:
        found = self._tenant_notes()
        if found is None:
            check_for_tenants(self._settings, self._connection)
            raise UnknownTenantError(
                f"there is no tenant {self._tenant!r} in {self._where}; `p4r tenant list` names "
                f"those that there are, and `p4r tenant add {self._tenant}` adds it"
            )
        return found

    def _tenant_notes(self) -> Mapping[str, Any] | None:
        with suppress(IndexMismatchError):  # no tenant was ever added
            return self._get("tenant")
        return None

    # -- versions -----------------------------------------------------------------------------

    def live(self) -> str | None:
        """See `Register`. Raises UnknownTenantError."""
        return str(self._known()["live"]) or None

    def names(self) -> list[str]:
        """See `Register`: the versions of the tenant."""
        self._known()
        return [str(one["version"]) for one in self._notes.scroll(_holding("version"))]

    def switch(self, live: Mapping[str, str]) -> None:
        """See `Register`. A tenant has one name for its live version."""
        self._change("tenant", {"live": live[self._alias]})

    def unname(self) -> None:
        """See `Register`."""
        self._change("tenant", {"live": ""})

    def read(self, name: str) -> Mapping[str, Any]:
        """See `Register`."""
        return self._get(f"version {name}") or {}

    def note(self, name: str, changes: Mapping[str, Any]) -> None:
        """See `Register`."""
        what = f"version {name}"
        self._notes.insert([self._point(what, {HOLDS: "version", "version": name})])
        self._change(what, changes)

    def check_unused(self, name: str) -> None:
        """See `Register`."""
        if self.live() == name:
            raise IndexLockedError(
                f"{name!r} is the live version of the tenant {self._tenant!r}; it stays"
            )

    def remove(self, version: Collection) -> None:
        """See `Register`. The tenant's points go; the collection stays for the others."""
        version.delete(models.Filter())
        self._notes.delete([self._id(f"version {version.name}")])

    def _get(self, what: str) -> Mapping[str, Any] | None:
        where = models.Filter(must=[models.HasIdCondition(has_id=[self._id(what)])])
        return next(iter(self._notes.scroll(where)), None)

    def _change(self, what: str, changes: Mapping[str, Any]) -> None:
        where = models.Filter(must=[models.HasIdCondition(has_id=[self._id(what)])])
        self._notes.set_payload(dict(changes), where)

    def _point(self, what: str, payload: Mapping[str, Any]) -> models.PointStruct:
        return models.PointStruct(id=self._id(what), payload=dict(payload), vector={})

    def _id(self, what: str) -> str:
        return self.scope.uuid(uuid.uuid5(_SPACE, what))


def tenants_of(alias: str) -> str:
    """The name of the collection with the tenants of an index."""
    return f"{alias}-tenants"


def tenants(settings: Settings, connection: Connection) -> dict[str, Mapping[str, str]]:
    """The tenants of an index by name, and their notes. Raises IndexMismatchError."""
    name = tenants_of(settings.qdrant.collection)
    notes = Collection(connection, name, settings.qdrant.timeout_s)
    if not notes.exists():
        check_for_tenants(settings, connection)
        return {}
    found = {one[TENANT]: one for one in notes.scroll(_holding("tenant"))}
    return dict(sorted(found.items()))


def check_for_tenants(settings: Settings, connection: Connection) -> None:
    """Raise IndexMismatchError if the index was made without tenants."""
    alias = settings.qdrant.collection
    if connection.call(partial(connection.client.collection_exists, alias)):
        raise IndexMismatchError(
            f"the index {alias!r} on {settings.qdrant.url} was made without tenants: unset "
            "P4R_INDEX__TENANTS, or choose another name (P4R_QDRANT__COLLECTION)"
        )


def _holding(what: str) -> models.Filter:
    return models.Filter(
        must=[models.FieldCondition(key=HOLDS, match=models.MatchValue(value=what))]
    )
