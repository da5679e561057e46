"""Delete a tenant with everything it has in an index."""

from __future__ import annotations

import shutil

from p4r_qdrant.errors import IndexLockedError
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.settings import Settings


def drop_tenant(settings: Settings) -> None:
    """Delete the tenant that the settings name: versions, columns, users and jobs.

    Nothing of another tenant changes. Killed and run again, it goes on. Raises UnknownTenantError,
    IndexLockedError if the tenant is in use, or published to (then its live version stays), and
    OSError if a file of an embedded one cannot be deleted; then it is still listed.
    """
    tenant = settings.index.owner
    with open_tenants(settings) as tenants:
        tenants.check(tenant)
        with open_versions(settings) as versions:
            _drop_versions(settings, versions)
        if settings.qdrant.url is not None:
            from p4r_qdrant.users.qdrant.collections import drop_records

            drop_records(settings)
        else:
            from p4r_qdrant.users.sqlite import file_of

            file = file_of(settings)
            for path in file.parent.glob(f"{file.name}*"):  # and its log
                path.unlink()
            if settings.folder.exists():
                shutil.rmtree(settings.folder)
        tenants.forget(tenant)


def _drop_versions(settings: Settings, versions: Versions) -> None:
    """Delete all versions, the live one last."""
    live = versions.live()
    for version in sorted(versions.all(), key=lambda one: one.name == live):
        if version.name == live:
            versions.unname()
        if settings.qdrant.url is not None:
            from p4r_qdrant.users.qdrant.collections import drop_vectors

            # Before the version: after a kill nobody would know of them. If the version stays, they
            # are made again when they are needed.
            drop_vectors(settings, version.name)
        try:
            versions.drop(version.name)
        except IndexLockedError:
            if version.name == live:
                versions.switch({versions.alias: live})
            raise
