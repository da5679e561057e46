"""Restore a backup: fill versions that are not live yet, then make them live in one switch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from indexer.backups import parts
from indexer.backups.folder import BackupFolder
from indexer.backups.manifest import Manifest
from indexer.backups.plan import PlannedVersion, is_restored, plan_of
from indexer.progress import SILENT, Progress, track
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import VerificationError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.columns import CollaborativePart, Column
from p4r_qdrant.index.engine import Engine
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import UNFINISHED, IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.payload import GENERATION, ITEM_ID, POSITION, Point
from p4r_qdrant.index.replacing import WRITE_BATCH
from p4r_qdrant.index.versions import Version, Versions
from p4r_qdrant.live.loading import encoder_for_index, history_for_index
from p4r_qdrant.settings import EncoderSettings, Settings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.versions import drop_version

INTERACTIONS_AT_ONCE = 500
JOBS_AT_ONCE = 50
"""Jobs about items may hold many reviews."""

LoadEncoder = Callable[[EncoderSettings, IndexMetadata], Encoder]


@dataclass(frozen=True)
class Restored:
    """What `restore` did. before: the version that was live; "" if none was."""

    manifest: Manifest
    location: str
    live: str
    before: str


def restore(
    settings: Settings,
    path: Path,
    *,
    force: bool = False,
    in_place: bool = False,
    load_encoder: LoadEncoder = encoder_for_index,
    progress: Progress = SILENT,
) -> Restored:
    """Restore a backup into the index that the settings name, and make it live in one step.

    force: also beside data that is there: its versions stay, and so do users' interactions and
    jobs; those of the backup are added. Nothing is written before every file matches its checksum.
    Killed and run again, it goes on. Of a backup that is live already, nothing is done without it.
    in_place: the live version is a collection with the name of the alias, and is deleted just
    before the switch, if it holds what the backup holds.

    Raises: InputError for a backup that is not whole, damaged or of a newer format, for an index
        that holds data, or for an encoder in the settings that did not make the backup's vectors;
        IndexLockedError if a backup is being restored there; StorageFullError; VerificationError
        before the switch if the index does not hold what the backup holds.
    """
    folder = BackupFolder(path)
    manifest = folder.manifest()
    for part in track(progress, manifest.parts, "checking the backup", len(manifest.parts)):
        folder.check(part)
    check_encoder(settings, manifest.source.versions[manifest.live].made_with(), load_encoder)
    with open_versions(settings) as versions, ExitStack() as writing:
        restoring = _Restoring(settings, versions, folder, manifest, writing, progress)
        before = versions.live() or ""
        if not force and is_restored(versions, manifest):
            return Restored(manifest, versions.location, before, "")
        planned = plan_of(versions, manifest, settings, force=force, in_place=in_place)
        *others, live = planned
        for one in others:
            restoring.version(one)
        if manifest.source.users:
            restoring.users(live)
        restoring.version(live)
        if in_place and before == versions.alias:
            _make_room(settings, versions, live)
        names = {manifest.source.versions[one.place].name: one.name for one in planned}
        versions.switch({versions.alias: live.name}, names.get(manifest.source.undone, ""))
        return Restored(manifest, versions.location, live.name, before)


def _make_room(settings: Settings, versions: Versions, live: PlannedVersion) -> None:
    """Delete the collection that has the name of the alias."""
    with versions.open(versions.alias) as old, versions.open(live.name) as new:
        if old.written() != new.written():
            raise VerificationError(
                f"{old.location} was written to after its backup; nothing was deleted: stop what "
                "writes to it, and run it again with another folder for the backup"
            )
        plain = Version(versions.alias, old.metadata)
    drop_version(settings, versions, plain)


def check_encoder(
    settings: Settings, metadata: IndexMetadata, load_encoder: LoadEncoder = encoder_for_index
) -> None:
    """Raise IndexMismatchError if the settings name an encoder that did not make an index.

    If they name none, readers use the one that the index names, and none is loaded here.
    """
    if settings.encoder.model_fields_set & {"model", "adapter", "base_url"}:
        encoder = load_encoder(settings.encoder, metadata)
        metadata.check(encoder.dimension, encoder.fingerprint, "the index to restore")


@dataclass(frozen=True)
class _Restoring:
    """One run of `restore`. writing: keeps other writers out of the versions until it ends."""

    settings: Settings
    versions: Versions
    folder: BackupFolder
    manifest: Manifest
    writing: ExitStack
    progress: Progress

    def version(self, own: PlannedVersion) -> None:
        """Fill a version, with the number format and the fields that it had."""
        stored, index = self.manifest.source.versions[own.place], self.settings.index
        fields = {**stored.fields, **index.field_types}
        changes = {
            "datatype": stored.datatype or index.datatype,
            "fields": ",".join(f"{field}={kind}" for field, kind in fields.items()),
        }
        making = self.settings.model_copy(update={"index": index.model_copy(update=changes)})
        with open_versions(making) as made, made.open(own.name, own.metadata) as opened:
            self.writing.enter_context(self.versions.sole_writer(own.name))
            if not opened.metadata.publish:
                # A service takes over what it has written since.
                opened.record(publish=str(self.versions.begin_publish()))
            self._fill(opened, own.place)
            opened.record(restored=own.metadata.restored.removesuffix(UNFINISHED))

    def _fill(self, index: PersonaIndex, place: int) -> None:
        sections = self.manifest.of("personas", place)
        wanted = (sum(one.items for one in sections), sum(one.records for one in sections))
        self.progress.start(f"restoring {index.version}", wanted[1])
        is_begun = index.stats().personas > 0
        for part in sections:
            points = parts.points_of(*self.folder.read(part), index.engine.point_id)
            by_item = (list(own) for _, own in groupby(points, lambda one: one.payload[ITEM_ID]))
            for items in batches(by_item, WRITE_BATCH):
                missing = _missing(index.engine, items) if is_begun else items
                index.engine.upsert([point for own in missing for point in own])
                self.progress.advance(sum(map(len, items)))
        if (part_of_b := index.collaborative) is not None:
            self._write_columns(index.engine, part_of_b, place)
        stats = index.stats()
        if (stats.items, stats.personas) != wanted:
            raise VerificationError(
                f"{index.location} holds {stats.items} items with {stats.personas} personas, the "
                f"backup {wanted[0]} with {wanted[1]}; nothing was switched: run it again"
            )

    def _write_columns(self, engine: Engine, part: CollaborativePart, place: int) -> None:
        """The set of columns that the metadata name; those without a number came after the fit."""

        def stored(*, numbered: bool) -> Iterator[Column]:
            for one in self.manifest.of("columns", place):
                columns = parts.columns_of(*self.folder.read(one))
                yield from (column for column in columns if (column.number is None) != numbered)

        engine.columns.write(part.set, stored(numbered=True))
        opened = engine.columns.open(part.set)
        for some in batches(stored(numbered=False), WRITE_BATCH):
            opened.put(some)

    def users(self, live: PlannedVersion) -> None:
        """Add what is not stored: jobs, then interactions, which get the job to be read if none."""
        interactions = self.manifest.of("interactions")
        self.progress.start("restoring interactions", sum(one.records for one in interactions))
        history = history_for_index(self.settings, live.metadata)
        with closing(open_store(self.settings, live.name, live.metadata, history)) as store:
            for part in self.manifest.of("jobs"):
                for jobs in batches(parts.jobs_of(self.folder.read(part)[0]), JOBS_AT_ONCE):
                    store.jobs.load(jobs)
            for part in interactions:
                stored = parts.interactions_of(*self.folder.read(part))
                for some in batches(stored, INTERACTIONS_AT_ONCE):
                    store.load(some)
                    self.progress.advance(len(some))


def _missing(engine: Engine, items: Sequence[list[Point]]) -> list[list[Point]]:
    """The items that a killed restore has not written whole."""
    fields = [ITEM_ID, POSITION, GENERATION]
    ids = [own[0].payload[ITEM_ID] for own in items]
    held = {tuple(payload[one] for one in fields) for payload in engine.payloads(ids, fields)}
    return [
        own
        for own in items
        if not all(tuple(point.payload[one] for one in fields) in held for point in own)
    ]
