"""Bring an index of an earlier release into today's form."""

from __future__ import annotations

from pathlib import Path

from indexer.backups.backup import backup
from indexer.backups.folder import BackupFolder
from indexer.backups.restore import Restored, restore
from indexer.progress import SILENT, Progress
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.settings import Settings


def outdated(settings: Settings, path: Path) -> str:
    """What `migrate` would do, as a sentence; "" if there is nothing to do.

    path: the folder of its backup, where a killed one may have left off.
    """
    with open_versions(settings) as versions:
        live = versions.live()
        if settings.qdrant.url is None or (live is not None and live != versions.alias):
            return ""
        if live is None:
            if not BackupFolder(path).is_whole():
                raise versions.nothing_live()
            return f"the copy of {versions.alias!r} is made live"
        with versions.open(live) as index:
            name = versions.beside(index.metadata.fingerprint)
        return (
            f"{versions.alias!r} on {settings.qdrant.url} is a collection, made before there were "
            f"versions: it is backed up into {path}, copied into {name!r}, deleted, and becomes "
            "the alias of the copy; readers have no index for a moment"
        )


def migrate(settings: Settings, path: Path, progress: Progress = SILENT) -> Restored:
    """Replace a collection that has the name of the alias by a version.

    Its name cannot be an alias while it exists, so no other encoder can be published. path: a new
    folder for a backup, which stays. Killed and run again, it goes on.

    Raises: see `backup` and `restore`; VerificationError, with nothing deleted, if it was written
        to meanwhile.
    """
    if not BackupFolder(path).is_whole():
        backup(settings, path, progress=progress)
    return restore(settings, path, in_place=True, progress=progress)
