"""Delete versions of an index together with the user vectors made for them."""

from __future__ import annotations

from p4r_qdrant.errors import IndexLockedError
from p4r_qdrant.index.versions import Version, Versions
from p4r_qdrant.settings import Settings


def drop_version(settings: Settings, versions: Versions, version: Version) -> None:
    """Delete a version of the index, then its user vectors.

    Raises IndexLockedError if the version is in use.
    """
    versions.drop(version.name)
    if settings.qdrant.url is not None:
        from p4r_qdrant.users.qdrant.collections import drop_vectors as drop_collection

        drop_collection(settings, version.name)
    else:
        from p4r_qdrant.users.sqlite import drop_vectors as drop_rows

        drop_rows(settings, version.metadata.fingerprint)


def drop_old(settings: Settings, versions: Versions) -> tuple[list[str], list[str]]:
    """Delete all versions but the live and the previous one, with their user vectors.

    Returns the names of the deleted versions, and of those that are in use and stay.
    """
    dropped, in_use = [], []
    for version in versions.old():
        try:
            drop_version(settings, versions, version)
            dropped.append(version.name)
        except IndexLockedError:
            in_use.append(version.name)
    return dropped, in_use
