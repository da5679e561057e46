"""Artifacts to index: read, encode what changed, write, verify, and switch to it."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import Arrival
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ARRIVALS, PERSONAS
from indexer.indexing.items import IndexReport, Source, index_artifacts
from indexer.indexing.mean_user import note_typical_user
from indexer.indexing.vector_files import VectorFile
from indexer.indexing.verifying import Expected, verify_scores, verify_written
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import IndexLockedError, InputError, VerificationError
from p4r_qdrant.index.index import PersonaIndex, now
from p4r_qdrant.index.metadata import IndexMetadata, today
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.loading import history_for_index
from p4r_qdrant.records import ItemPersonas
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.opening import keeps_users, open_store


@dataclass
class Published(IndexReport):
    """What `publish` did. `removed`: items that the artifacts no longer hold.

    `version` is live now, `previous` was before it (empty: none, or the same). `users`: those whom
    the service keeps and whose vectors were made with the new encoder. `kept_because` says why
    nothing was removed, where the artifacts leave it open what is gone.
    """

    version: str = ""
    location: str = ""
    previous: str = ""
    removed: int = 0
    users: int = 0
    kept_because: str = ""


def publish(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    *,
    domain: str,
    refusals: Refusals,
    again: bool = False,
    shrink: bool = False,
    progress: Progress = SILENT,
) -> Published:
    """Make the personas of an artifact folder, as `source` encodes them, what readers get.

    A new encoder's vectors are written to a version that nobody reads, compared with the artifacts
    and with the encoder, and then switched to in one step. With the encoder that is live already
    its version is brought up to date item by item. Killed at any moment and run again it goes on.

    `again` encodes everything, whatever is there. Raises VerificationError, and has not switched
    then; InputError where less than half of the live items are in the artifacts, without `shrink`.
    """
    began_at = datetime.now(UTC).isoformat()  # to the microsecond: see `Live.take_over`
    listed = _Listed.of(folder)
    made, expected = IndexMetadata.of(source), Expected(source.fingerprint)
    with open_versions(settings) as versions, source.on_all_devices():
        name = versions.of(source.fingerprint)
        versions.check_switch(name)
        with versions.open(name, made) as index, index.sole_writer():
            index.metadata.check(source.dimension, source.fingerprint, index.location)
            held = _live_items(versions, index)
            least = 0 if shrink else (held + 1) // 2
            if len(listed.item_ids) < least:
                raise InputError(
                    f"the live index holds {held} items and the artifacts {len(listed.item_ids)}: "
                    "if the others are to go, say --shrink"
                )
            report = Published(version=name, location=index.location)
            began = now()
            progress.start("publishing items", len(listed.item_ids) + listed.broken)
            done = index_artifacts(
                folder,
                source,
                index,
                domain=domain,
                refusals=refusals,
                progress=progress,
                settled=expected.add,
                again=again,
            )
            report.written, report.unchanged, report.refused = astuple(done)
            note_typical_user(folder, source, index, settings)
            if len(expected.item_ids) < max(1, least):
                raise VerificationError(
                    f"only {len(expected.item_ids)} of {len(listed.item_ids)} items could be "
                    f"written to {index.location} ({_first(refusals)}); nothing was switched"
                )
            _take_out(index, listed, expected, began, report)
            live = versions.live()  # now: to encode takes long, and somebody may have published
            report.previous = live if live is not None and live != name else ""
            if report.written or live != name:
                verify_written(index, expected.written)
                verify_scores(index, source, expected.sample)
            if report.written or report.removed or live != name:
                index.record(
                    encoder=made.encoder,
                    kind=made.kind,
                    model=made.model,
                    adapter=made.adapter,
                    published_at=today(),
                    began_at=began_at,
                    previous=report.previous or index.metadata.previous,
                )
        if live != name:
            report.users = _encode_users(settings, name, made, source)
            versions.switch({versions.alias: name})
    return report


def _encode_users(settings: Settings, name: str, made: IndexMetadata, source: Source) -> int:
    """Make the vectors of the service's users for a version; counts users.

    Somebody who does something meanwhile loses the vector there, and the service makes it again.
    """
    if isinstance(source, VectorFile) or not keeps_users(settings):
        return 0
    history = history_for_index(settings, made)
    with closing(open_store(settings, name, made, history)) as store:
        return store.encode_all(source)


def _take_out(
    index: PersonaIndex, listed: _Listed, expected: Expected, began: int, report: Published
) -> None:
    """Delete the items that the artifacts no longer hold, where that is certain."""
    held = set(index.item_ids())
    if missing := expected.item_ids - held:
        raise VerificationError(
            f"{len(missing)} items that were written are not in {index.location} "
            f"(first: {min(missing)!r}); nothing was switched, publish again"
        )
    strangers = sorted(held - listed.item_ids - listed.arriving)
    if strangers and listed.broken:
        report.kept_because = (
            f"{len(strangers)} items are not in {PERSONAS}, but {listed.broken} of its lines are "
            "broken: they were kept"
        )
    elif strangers:
        index.delete_items(strangers, written_before=began)  # later ones are somebody else's
        report.removed = len(strangers)


@dataclass
class _Listed:
    """What an artifact folder names: items with personas, and items that are still on their way."""

    item_ids: set[str]
    arriving: set[str]
    broken: int

    @classmethod
    def of(cls, folder: ArtifactFolder) -> _Listed:
        """Raises InputError where there is nothing to publish."""
        broken = Refusals(keep=1)
        lines = read_lines(folder.file(PERSONAS), ItemPersonas, broken)
        item_ids = {record.item_id for _, _, record in lines}
        if not item_ids:
            what = f"no whole line ({broken.sentences[0]})" if broken.total else "no line"
            raise InputError(
                f"{folder.path / PERSONAS} holds {what}: nothing can be published from it"
            )
        arriving = set[str]()
        if folder.has(ARRIVALS):  # `p4r add` indexes an item before it is in the artifacts
            lost = Refusals()
            arriving = {
                one.item_id for _, _, one in read_lines(folder.path / ARRIVALS, Arrival, lost)
            }
        return cls(item_ids, arriving, broken.total)


def _live_items(versions: Versions, index: PersonaIndex) -> int:
    """How many items the live version holds; 0 where another process has it open.

    Raises IndexMismatchError where it is not one of ours.
    """
    live = versions.live()
    if live == index.version:
        return index.stats().items
    if live is not None:
        with suppress(IndexLockedError), versions.open(live) as opened:
            return opened.stats().items
    return 0


def _first(refusals: Refusals) -> str:
    return refusals.sentences[0] if refusals.sentences else "the others were refused"
