"""Tenants of the embedded engine: a folder for each.

    PATH/tenants/NAME.json             the tenant exists
    PATH/tenants/NAME/                 its index, as one without tenants (`versions.py`)
    PATH/tenants/NAME-users.sqlite     its users

A folder has its own lock, so no tenant waits for another one.
"""

from __future__ import annotations

import json
from contextlib import suppress

from p4r_qdrant.errors import IndexMismatchError, InputError, UnknownTenantError
from p4r_qdrant.index.edge.folder import MANIFEST, failure
from p4r_qdrant.index.edge.versions import CURRENT, EdgeVersions
from p4r_qdrant.index.metadata import today
from p4r_qdrant.index.tenants import Tenant, Tenants
from p4r_qdrant.settings import TENANTS, Settings
from p4r_qdrant.whole_files import write_whole


class EdgeTenants(Tenants):
    """The folder TENANTS in `qdrant.path`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.qdrant.path
        self._folder = self._root / TENANTS
        self.location = f"the folder {self._root}"

    def all(self) -> list[Tenant]:
        """See `Tenants`."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, InputError):
                created_at = str(json.loads(path.read_bytes())["created_at"])
                versions = EdgeVersions(self._settings.of_tenant(path.stem))
                found.append(Tenant(path.stem, created_at, versions.live() or ""))
        return found

    def check(self, name: str) -> None:
        """See `Tenants`."""
        if not (self._folder / f"{name}.json").exists():
            self._check_root()
            raise UnknownTenantError(
                f"there is no tenant {name!r} in {self.location}; `p4r tenant list` names those "
                f"that there are, and `p4r tenant add {name}` adds it"
            )

    def add(self, name: str) -> bool:
        """See `Tenants`."""
        self._check_root()
        path = self._folder / f"{name}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return False
            write_whole(path, json.dumps({"created_at": today()}))
        except OSError as error:
            raise failure(self.location, str(error)) from None
        return True

    def forget(self, name: str) -> None:
        """See `Tenants`."""
        with suppress(FileNotFoundError):
            (self._folder / f"{name}.json").unlink()

    def promote(self, name: str) -> dict[str, int]:
        """See `Tenants`."""
        raise InputError(
            f"a tenant of the embedded engine has a folder of its own already "
            f"({self._folder / name}); shards are of a Qdrant cluster (P4R_QDRANT__URL)"
        )

    def check_none(self) -> None:
        """Raise IndexMismatchError if the folder is that of an index with tenants."""
        try:
            is_for_tenants = self._folder.is_dir()
        except OSError as error:
            raise failure(str(self._root), str(error)) from None
        if is_for_tenants:
            raise IndexMismatchError(
                f"{self.location} was made for tenants: set P4R_INDEX__TENANTS=true, or choose "
                "another one (P4R_QDRANT__PATH)"
            )

    def _check_root(self) -> None:
        if any((self._root / one).exists() for one in (MANIFEST, CURRENT)):
            raise IndexMismatchError(
                f"{self.location} was made without tenants: unset P4R_INDEX__TENANTS, or choose "
                "another one (P4R_QDRANT__PATH)"
            )
