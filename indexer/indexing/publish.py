"""Publish an artifact folder: encode what changed, write, verify, switch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import chain

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.index_rows import IndexRow, IndexRows
from indexer.artifacts.journal import ids_of
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import PERSONAS
from indexer.artifacts.outdated import outdated_in, persona_digest
from indexer.artifacts.tuned import read_tuned
from indexer.indexing.collaborative import Fitting, fitted
from indexer.indexing.comparing import check, of_update, of_versions
from indexer.indexing.fresh_version import FreshVersion
from indexer.indexing.items import IndexReport, ItemIndexer, Source, settled_items
from indexer.indexing.mean_user import note_typical_user
from indexer.indexing.noting import Noted
from indexer.indexing.scoring import note_scoring, with_tuned
from indexer.indexing.vector_files import VectorFile
from indexer.indexing.verifying import Expected, verify_scores, verify_written
from indexer.progress import SILENT, Progress
from indexer.review.screening import Policy, Screening
from p4r_qdrant.encoder.cache import CachedEncoder, VectorCache
from p4r_qdrant.errors import IndexLockedError, InputError, VerificationError
from p4r_qdrant.index.changes import Changes
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata, today
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.loading import history_for_index
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import StoredPersona
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.opening import keeps_users, open_store


@dataclass(frozen=True)
class PublishOptions:
    """How to publish.

    again: encode everything, whatever the index holds. shrink: allow a version with less than half
    of the live items. training_only: fit the collaborative part without the interactions that
    splits.jsonl holds out. approved_only, hide_flagged: see `Policy`. preview: only compare with
    the live version, and leave that as it is. max_change: the largest share of synthetic readers'
    first places that may change (see `Changes.share`); None: nothing is compared.
    """

    domain: str
    again: bool = False
    shrink: bool = False
    training_only: bool = False
    approved_only: bool = False
    hide_flagged: bool = False
    preview: bool = False
    max_change: float | None = None

    @property
    def compares(self) -> bool:
        """Whether the live version is compared with the new one."""
        return self.preview or self.max_change is not None


@dataclass
class Published(IndexReport):
    """What `publish` did.

    `version` is live now. `previous` was live before, "" if none was or it is the same. `removed`
    counts items that the artifacts no longer hold; `kept_because` says why such items were kept.
    `outdated_in` names other versions that are in use and may hold personas of erased users,
    or rejected ones.
    `users` counts stored users whose vectors were made with the new encoder. `collaborative` and
    `weights` say what was done about the collaborative part and the weights of the score.
    `changes`: None if nothing was compared. `is_live`: False after a preview; then `version` is
    built only, or as it was. `not_noted`: why the history of the folder lacks this publish.
    """

    version: str = ""
    location: str = ""
    previous: str = ""
    removed: int = 0
    users: int = 0
    kept_because: str = ""
    outdated_in: list[str] = field(default_factory=list)
    collaborative: str = ""
    weights: str = ""
    changes: Changes | None = None
    is_live: bool = True
    not_noted: str = ""


def publish(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    options: PublishOptions,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Published:
    """Make the personas of an artifact folder, encoded by `source`, the ones that readers get.

    The vectors of a new encoder go to a version that no process reads. It is compared with the
    artifacts and the encoder, and then becomes the live version in one step. If the encoder is the
    live one, its version is updated item by item. If it is killed and run again, it goes on. The
    collaborative part is fitted to the personas and interactions, if they have changed, with the
    settings that `p4r tune` chose unless others are set; its weights of the score are recorded.

    Raises: VerificationError before the switch if the index does not hold what was written;
        TooMuchChangeError before the switch, or before anything is written to the live version, if
        more than `options.max_change` changes;
        InputError, with nothing written, if the artifacts hold less than half of the live items
        and `options.shrink` is not set, or if fitting takes more memory than the settings allow.
    """
    folder.personas()
    policy = Policy(
        Rules.load(settings.reasoning.rules), options.approved_only, options.hide_flagged
    )
    total = folder.estimated_lines(PERSONAS)
    tuned = read_tuned(folder)
    fitting = Fitting.planned(
        folder,
        with_tuned(settings.collaborative, tuned),
        refusals,
        shape=(total, source.dimension),
        training_only=options.training_only,
        progress=progress,
    )
    changes: Changes | None = None
    made, expected = IndexMetadata.of(source), Expected(source.fingerprint)
    with open_versions(settings) as versions, source.on_all_devices(), ExitStack() as records:
        name = versions.of(source.fingerprint)
        versions.check_switch(name)
        fresh = FreshVersion(versions, name)
        with fresh, versions.open(name, made) as index, versions.sole_writer(name):
            fresh.is_ours = True
            if options.compares and versions.live() == name:
                changes = _compared_update(index, folder, source, options, policy)
                check(changes, options.max_change)
                if options.preview:
                    return Published(
                        version=name, location=index.location, changes=changes, is_live=False
                    )
            number = versions.begin_publish()
            before = settled_items(index, folder)  # the others are not in `rows`, and stay
            rows = folder.index_rows(options.domain, refusals, policy)
            stream = _started(rows)
            index.metadata.check(source.dimension, source.fingerprint, index.location)
            held = _live_items(versions, index)
            least = 0 if options.shrink else (held + 1) // 2
            progress.start("publishing items", total)
            indexer = ItemIndexer(source, index, refusals, again=options.again, known=before)
            noted = records.enter_context(Noted.of(folder.path))

            def settled(row: IndexRow, is_written: bool) -> None:
                expected.add(row, is_written)
                noted.add(row)

            done = indexer.index_all(
                stream,
                ready=lambda: len(rows) >= least,
                settled=settled,
                progress=progress,
            )
            if len(rows) < least:
                raise InputError(
                    f"the live index holds {held} items, the artifacts only {len(rows)}"
                    f"{_withheld(rows)}; nothing was written: publish with --shrink to remove the "
                    "others"
                )
            report = Published(**vars(done), version=name, location=index.location)
            report.review = rows.screening.sentences()
            note_typical_user(folder, source, index, settings, tuned)
            if len(expected.item_ids) + done.kept < max(1, least):
                of_file = isinstance(source, VectorFile)
                raise (InputError if of_file else VerificationError)(
                    f"only {len(expected.item_ids)} of {len(rows)} items could be written to "
                    f"{index.location} ({_first(refusals)}); the live version did not change"
                )
            _remove_strangers(index, rows, expected, folder, before, report)
            live = versions.live()  # read now: another publish may have ended during the encoding
            report.previous = live if live is not None and live != name else ""
            if report.written or live != name:
                verify_written(index, expected.written)
                verify_scores(index, source, expected.sample)
            if options.compares and live not in (None, name):
                changes = _compared_version(versions, live or "", index)
                index.record(changes=changes.to_text())
                check(changes, options.max_change)
            report.changes = changes
            if options.preview:
                report.is_live = False
                return report
            report.collaborative = fitted(fitting, versions, index, progress)
            report.weights = note_scoring(index, tuned, fitting)
            if index.metadata.policy != policy.recorded:
                index.record(policy=policy.recorded)
            if report.written or report.removed or live != name:
                index.record(
                    encoder=made.encoder,
                    kind=made.kind,
                    model=made.model,
                    adapter=made.adapter,
                    published_at=today(),
                    publish=str(number),
                    changes=changes.to_text() if changes else "",
                    previous=report.previous or index.metadata.previous,
                )
            if live != name:
                index.close()  # once it is live, readers open it
                fresh.is_ours = False
                report.users = _encode_users(settings, name, made, source)
                versions.switch({versions.alias: name})
            noted.finish(name, None if rows.broken.total else rows.item_ids)
            report.not_noted = noted.problem
        report.outdated_in = _drop_outdated(versions, folder, name, rows.screening)
    return report


def _compared_update(
    index: PersonaIndex,
    folder: ArtifactFolder,
    source: Source,
    options: PublishOptions,
    policy: Policy,
) -> Changes:
    """What this publish changes in the live version, before anything is written."""
    known, held = settled_items(index, folder), set(index.item_ids())
    unreported = Refusals()
    rows = folder.index_rows(options.domain, unreported, policy)
    indexer = ItemIndexer(source, index, unreported, known=known)

    def stays() -> set[str]:
        return held if rows.broken.total else held - (_strangers(held, rows, folder) & known.keys())

    return of_update(index, indexer, _started(rows), stays)


def _compared_version(versions: Versions, live: str, new: PersonaIndex) -> Changes:
    """What the switch from the live version to a new one changes."""
    with versions.open(live) as opened:
        return of_versions(opened, new)


def _drop_outdated(
    versions: Versions, folder: ArtifactFolder, live: str, screening: Screening
) -> list[str]:
    """Delete personas of erased users, and rejected ones, from the versions that are not live.

    So none comes back with a rollback. Returns: the versions that are in use.
    """
    outdated, in_use = outdated_in(folder.path), []
    for item_id, digests in screening.rejected().items():
        outdated[item_id] = {*outdated.get(item_id, ()), *digests}

    def unwanted(persona: StoredPersona) -> bool:
        return persona_digest(persona) in outdated[persona.item_id]

    for version in versions.all() if outdated else ():
        if version.name != live:
            try:
                with versions.open(version.name) as index, versions.sole_writer(version.name):
                    index.drop_personas(outdated, unwanted)
            except IndexLockedError:
                in_use.append(version.name)
    return in_use


def _encode_users(settings: Settings, name: str, made: IndexMetadata, source: Source) -> int:
    """Make the vectors of the service's users for a version; returns the number of users.

    If a user acts meanwhile, the vector is deleted, and the service makes it again.
    """
    if isinstance(source, VectorFile) or not keeps_users(settings):
        return 0
    history = history_for_index(settings, made)
    with closing(open_store(settings, name, made, history)) as store:
        return store.encode_all(CachedEncoder(source, VectorCache(settings.encoder.cache_mb)))


def _remove_strangers(
    index: PersonaIndex,
    rows: IndexRows,
    expected: Expected,
    folder: ArtifactFolder,
    before: Mapping[str, int],
    report: Published,
) -> None:
    """Delete the items that the artifacts no longer hold, unless a broken line may be theirs.

    `p4r add` may have indexed items since `rows` were read: the folder is read again, after the
    index.
    """
    held = set(index.item_ids())
    if missing := expected.item_ids - held:
        raise VerificationError(
            f"{len(missing)} items that were written are not in {index.location} "
            f"(first: {min(missing)!r}); the live version did not change: publish again"
        )
    strangers = _strangers(held, rows, folder)
    if strangers and rows.broken.total:
        report.kept_because = (
            f"{len(strangers)} items are not in {PERSONAS}, but {rows.broken.total} of its lines "
            "are broken: they were kept"
        )
    elif strangers:
        unchanged = {one: before[one] for one in sorted(strangers) if one in before}
        index.delete_unchanged(unchanged)
        report.removed = len(unchanged)


def _strangers(held: set[str], rows: IndexRows, folder: ArtifactFolder) -> set[str]:
    """The items of an index that the artifacts no longer hold, or no longer may serve."""
    strangers = held - rows.item_ids
    return strangers - (ids_of(folder) - rows.screening.items) if strangers else strangers


def _started(rows: IndexRows) -> Iterator[IndexRow]:
    """Begin to read; raises InputError if there is no item to publish."""
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        broken = rows.broken.sentences
        what = f"no valid line ({broken[0]})" if broken else "no line"
        if rows.screening.items:
            what = f"no persona that may be served{_withheld(rows)}"
        raise InputError(f"{rows.path} holds {what}: nothing can be published from it")
    return chain([first], stream)


def _withheld(rows: IndexRows) -> str:
    """How many items review and rules withhold, as a part of a sentence."""
    count = len(rows.screening.items)
    return f" (decisions and rules withhold {count} others)" if count else ""


def _live_items(versions: Versions, index: PersonaIndex) -> int:
    """How many items the live version holds; 0 if another process has it open.

    Raises: IndexMismatchError if it is not an index of this project.
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
