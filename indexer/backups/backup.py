"""Back up an index and its users into a folder, while they are in use."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from indexer.backups import parts
from indexer.backups.folder import BackupFolder
from indexer.backups.manifest import BackedUpVersion, Manifest, Source
from indexer.backups.parts import Content, PartWriter
from indexer.backups.places import check_outside
from indexer.progress import SILENT, Progress, track
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.columns import CollaborativePart, Column
from p4r_qdrant.index.engine import Engine
from p4r_qdrant.index.filters import declared
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import today
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.payload import ITEM_ID, Point
from p4r_qdrant.index.replacing import WRITE_BATCH, settled
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.loading import history_for_index
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.opening import keeps_users, open_store
from p4r_qdrant.users.records import Job
from p4r_qdrant.users.store import BEGUN, UserStore

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Pauses before an item that is being replaced is read again."""


@dataclass(frozen=True)
class BackupOptions:
    """What goes into a backup.

    live_only: the live version alone. users: with users' interactions and jobs.
    """

    live_only: bool = False
    users: bool = True


ALL = BackupOptions()


def backup(
    settings: Settings,
    path: Path,
    options: BackupOptions = ALL,
    progress: Progress = SILENT,
) -> Manifest:
    """Write a backup of the index that the settings name into a new folder.

    A write during the backup is in it or not, but an item is never in it half written. Killed and
    run again, it goes on; if the index was published to in between, or a file of the backup was
    changed, it begins anew.

    Raises: InputError if the folder holds anything else or is in that of the index,
        IndexLockedError if another backup is being written there, StorageFullError,
        IndexMismatchError if there is no index.
    """
    check_outside(settings, path)
    folder = BackupFolder(path)
    is_new = not path.exists()
    if not is_new:
        folder.begun()  # refuses another program's folder before a lock file is put there
    with open_versions(settings) as versions:
        source = _source(settings, versions, options)
        with folder.locked():
            manifest = folder.begun()
            if not (manifest and manifest.source.is_same(source) and folder.holds(manifest)):
                manifest = Manifest(id=secrets.token_hex(8), created_at=today(), source=source)
            try:
                _back_up(folder, manifest, versions, settings, progress)
            except BaseException:
                if is_new and not manifest.parts:  # nothing that another run could go on from
                    folder.remove(manifest)
                raise
    return manifest


def _back_up(
    folder: BackupFolder,
    manifest: Manifest,
    versions: Versions,
    settings: Settings,
    progress: Progress,
) -> None:
    folder.keep_only(manifest)
    folder.note(manifest)
    for number, version in enumerate(manifest.source.versions):
        if f"columns-{number}" not in manifest.done:
            with versions.open(version.name) as index:
                _back_up_version(folder, manifest, number, index, progress)
    if manifest.source.users:
        _back_up_users(folder, manifest, settings, progress)
    folder.finish(manifest)


def _source(settings: Settings, versions: Versions, options: BackupOptions) -> Source:
    """What there is to back up. Versions that are just being restored are left out."""
    live = versions.live()
    if live is None:
        raise versions.nothing_live()
    found = [
        BackedUpVersion(name=one.name, metadata=one.metadata.to_json())
        for one in versions.all()
        if one.name == live or (one.metadata.is_whole and not options.live_only)
    ]
    if live not in {one.name for one in found}:  # it says why it cannot be read
        versions.open(live).close()
    return Source(
        location=versions.location,
        live=live,
        undone="" if options.live_only else versions.undone(live),
        versions=found,
        users=options.users and keeps_users(settings),
    )


def _back_up_version(
    folder: BackupFolder, manifest: Manifest, number: int, index: PersonaIndex, progress: Progress
) -> None:
    version = manifest.source.versions[number]
    version.datatype = "float16" if index.datatype == "float16" else "float32"
    version.fields = declared(index.engine.fields)
    personas = PartWriter(folder, manifest, "personas", number)
    if not personas.is_done:
        progress.start(f"backing up {version.name}", index.stats().items)
        _back_up_personas(personas, manifest, number, index.engine, progress)
    part = CollaborativePart.from_text(version.made_with().collaborative)
    columns = _columns(index.engine, part) if part else iter(())
    try:
        PartWriter(folder, manifest, "columns", number).write_all(
            columns, parts.add_column, lambda one: one.item_id
        )
    except IndexMismatchError as error:
        raise IndexMismatchError(
            f"{error} (if a publish has just replaced it, run the backup again)"
        ) from None


def _back_up_personas(
    writer: PartWriter, manifest: Manifest, number: int, engine: Engine, progress: Progress
) -> None:
    """All items by the ids of their points; goes on after the last part."""
    before = manifest.of("personas", number)
    datatype = manifest.source.versions[number].datatype
    start, is_last = (before[-1].after, before[-1].after is None) if before else (None, False)
    progress.advance(sum(one.items for one in before))
    while not is_last:
        content, items = Content(), 0
        while not is_last and not content.is_full:
            item_ids, start = engine.item_page([], "", WRITE_BATCH, start)
            is_last = start is None
            whole, torn = whole_items(engine, item_ids)
            manifest.left_out += len(torn)
            for points in whole:
                for point in points:
                    parts.add_point(content, point, datatype)
            items += len(whole)
            progress.advance(len(item_ids))
        writer.write(content, items, start)
    writer.finish()


def whole_items(
    engine: Engine, item_ids: Sequence[str], pauses_s: Sequence[float] = PAUSES_S
) -> tuple[list[list[Point]], list[str]]:
    """The points of each item, no item half written, and the ids of items that never were whole.

    An item that is being replaced is read again, and so is one without any point: a point that is
    written while it is read is left out. One that a killed writer left with old and new points is
    read as the next repair would leave it. One that has no points at the end was deleted.
    """
    found: dict[str, list[Point]] = {}
    pending = list(item_ids)
    for pause_s in (*pauses_s, None):
        read = groupby(engine.points_of(pending), lambda one: one.payload[ITEM_ID])
        held = {one: settled(list(own), is_final=pause_s is None) for one, own in read}
        found |= {one: points for one, points in held.items() if points}
        pending = [one for one in pending if one not in found]
        if not pending or pause_s is None:
            break
        time.sleep(pause_s)
    return list(found.values()), [one for one in pending if one in held]


def _columns(engine: Engine, part: CollaborativePart) -> Iterator[Column]:
    opened = engine.columns.open(part.set)
    for some in batches(opened.items(), WRITE_BATCH):
        columns = opened.columns([item_id for item_id, _ in some])
        for item_id, number in some:
            if item_id in columns:
                yield columns[item_id]
            elif number is not None:  # histories may hold it
                yield Column.empty(item_id, number)


def _back_up_users(
    folder: BackupFolder, manifest: Manifest, settings: Settings, progress: Progress
) -> None:
    """Interactions with the vectors of the live version, then jobs.

    In this order, the job to erase a user who is erased meanwhile is in the backup.
    """
    live = manifest.source.versions[manifest.live]
    metadata = live.made_with()
    history = history_for_index(settings, metadata)
    with closing(open_store(settings, live.name, metadata, history)) as store:
        interactions = PartWriter(folder, manifest, "interactions", manifest.live)
        if not interactions.is_done:
            stream = track(progress, store.stream(), "backing up interactions")
            interactions.write_all(stream, parts.add_interaction, lambda one: one.user_id)
        jobs = PartWriter(folder, manifest, "jobs", manifest.live)
        if not jobs.is_done:
            jobs.write_all(_jobs(store), parts.add_job, lambda one: one.key)


def _jobs(store: UserStore) -> Iterator[Job]:
    for job in store.jobs.all():
        if job.kind == "erase":  # what was backed up before it must go, too
            yield replace(job, body={**job.body, BEGUN: True})
        else:
            yield job
