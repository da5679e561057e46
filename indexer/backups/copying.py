"""Copy an index with its users from one place to another, through a backup in between."""

from __future__ import annotations

import hashlib
from pathlib import Path

from indexer.backups.backup import ALL, BackupOptions, backup
from indexer.backups.folder import BackupFolder
from indexer.backups.places import check_apart, check_outside
from indexer.backups.plan import check_empty, is_restored
from indexer.backups.restore import Restored, check_encoder, restore
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.settings import Settings


def copy(
    source: Settings,
    target: Settings,
    work: Path,
    options: BackupOptions = ALL,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Restored:
    """Copy the index of some settings into that of others.

    work: where the backup in between is written; it is deleted at the end. Killed and run again,
    the copy goes on. What the source gets after its backup is not in the copy.

    Raises: see `backup` and `restore`; what the target would refuse is found first.
    """
    check_apart(source, target)
    for end in (source, target):
        check_outside(end, work)
    with open_versions(source) as versions:
        here = versions.location
        with versions.open_live() as index:
            check_encoder(target, index.metadata)
            fingerprint = index.metadata.fingerprint
    with open_versions(target) as versions:
        there = versions.location
    if here == there:
        raise InputError(f"both ends of the copy are {here}; name two places")
    name = hashlib.sha256(f"{here}\n{there}\n{options}".encode()).hexdigest()[:12]
    folder = BackupFolder(work / f"p4r-copy-{name}")
    folder.remove_if_empty()
    done = _restored(target, folder)
    if done is None:
        if not folder.is_whole():
            with open_versions(target) as versions:
                versions.check_switch(versions.named(fingerprint))
                if not force:
                    check_empty(versions, target)
            backup(source, folder.path, options, progress)
        done = restore(target, folder.path, force=force, progress=progress)
    folder.remove(done.manifest)
    return done


def _restored(target: Settings, folder: BackupFolder) -> Restored | None:
    """The result of a copy that was killed before it deleted its backup; None if unfinished."""
    if not folder.is_whole():
        return None
    manifest = folder.manifest()
    with open_versions(target) as versions:
        if not is_restored(versions, manifest):
            return None
        return Restored(manifest, versions.location, versions.live() or "", "")
