"""The tenants of an index: adding, naming and moving them. See `users.tenants` for dropping."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from p4r_qdrant.closing import Closing


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant. created_at: when it was added. live: its live version; "" if it has none."""

    name: str
    created_at: str
    live: str


class Tenants(Closing):
    """The tenants of the index that the settings name; a context manager."""

    location: str

    @abstractmethod
    def all(self) -> list[Tenant]:
        """All tenants, by name."""

    @abstractmethod
    def check(self, name: str) -> None:
        """Raise UnknownTenantError if there is no such tenant, IndexMismatchError if the index was
        made without tenants.
        """

    @abstractmethod
    def add(self, name: str) -> bool:
        """Add a tenant; False if it exists. Raises IndexMismatchError as `check` does."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Take a tenant off the list: after everything it has was deleted."""

    @abstractmethod
    def promote(self, name: str) -> dict[str, int]:
        """Give a tenant shards of its own; returns the number of its points by collection.

        Raises InputError if the storage has no shards for that.
        """

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""
