"""Artifacts to index: read, encode what changed, write, verify, and switch to it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

import numpy as np

from indexer.artifacts.folder import PERSONAS, ArtifactFolder, IndexRow, Refusals, read_lines
from indexer.artifacts.journal import ARRIVALS, Arrival
from indexer.indexing.mean_user import note_typical_user
from indexer.indexing.vector_files import VectorFile
from p4r_qdrant import texts
from p4r_qdrant.encoder.base import Encoder, Floats
from p4r_qdrant.errors import IndexLockedError, InputError, VerificationError
from p4r_qdrant.index.index import (
    IndexMetadata,
    ItemVectors,
    PersonaIndex,
    batches,
    now,
    today,
)
from p4r_qdrant.index.payload import check_personas, content_hash
from p4r_qdrant.index.versions import Versions, open_versions
from p4r_qdrant.records import ItemPersonas, Persona
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.store import keeps_users, open_store

CHUNK = 256
"""Items encoded together, by each worker of an encoder; their texts are sorted by length there."""
MOST_ITEMS = 4096
"""Items that are in memory at once."""
SAMPLE = 50
"""Personas whose stored vectors are compared with their texts before a switch."""
STORED_FLOAT16 = 2e-3
"""How far a vector kept as float16 may be from the one that was written, as 1 - cosine."""

Source = Encoder | VectorFile
"""Where the personas' vectors come from."""


@dataclass
class IndexReport:
    """What `index_artifacts` did, in items (refused: in records of any file)."""

    written: int = 0
    unchanged: int = 0
    refused: int = 0


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


def index_artifacts(
    folder: ArtifactFolder,
    encoder: Source,
    index: PersonaIndex,
    *,
    domain: str,
    refusals: Refusals,
    advance: Callable[[int], None] = lambda _: None,
    settled: Callable[[IndexRow, bool], None] = lambda *_: None,
    again: bool = False,
) -> IndexReport:
    """Encode and write the personas of an artifact folder; items that did not change are skipped.

    Killed at any moment and run again it ends in the same state, and encodes only what is
    missing; `again` encodes everything. A broken record is refused and counted, and the others go
    on. `advance` is told how many items each chunk settled; `settled` is called with every item
    that is there now, and whether it was written.
    """
    report = IndexReport()
    size = min(CHUNK * encoder.workers, MOST_ITEMS)
    for chunk in batches(folder.index_rows(domain, refusals), size):
        written, unchanged = index_rows(chunk, encoder, index, refusals, again=again)
        report.written += len(written)
        report.unchanged += len(unchanged)
        for row in chunk:
            if row.item.item_id in written or row.item.item_id in unchanged:
                settled(row, row.item.item_id in written)
        advance(len(chunk))
    report.refused = refusals.total
    return report


def index_rows(
    rows: list[IndexRow],
    encoder: Source,
    index: PersonaIndex,
    refusals: Refusals,
    *,
    again: bool = False,
) -> tuple[set[str], set[str]]:
    """Encode and write what changed: the ids of the items written, and of those unchanged.

    An item that cannot be indexed is in neither, and in `refusals`. `again`: all have changed.
    """
    held = {} if again else index.hashes([row.item.item_id for row in rows])
    hashes = {row.item.item_id: _vectors_hash(row, encoder) for row in rows}
    unchanged = {
        item_id
        for row in rows
        if (item_id := row.item.item_id) in held
        and held[item_id] == content_hash(row.item.personas, row.fields, hashes[item_id])
    }
    where = {row.item.item_id: row.where for row in rows if row.item.item_id not in unchanged}
    changed = [row for row in rows if row.item.item_id in where]
    written = set[str]()

    def refuse(item: ItemVectors, error: InputError) -> None:
        refusals.add(f"{where[item.item_id]}: {error}", "item refused")
        written.discard(item.item_id)

    encodable = list(_encodable(changed, index.max_personas, refusals))
    if encodable:
        written.update(row.item.item_id for row in encodable)
        vectors = _vectors(encodable, encoder)
        index.load(_items(encodable, vectors, hashes), refuse)
    return written, unchanged


def _vectors_hash(row: IndexRow, source: Source) -> str:
    return source.hash_of(row.item) if isinstance(source, VectorFile) else ""


def _encodable(rows: list[IndexRow], max_personas: int, refusals: Refusals) -> Iterator[IndexRow]:
    """The rows worth the encoder's time."""
    for row in rows:
        try:
            check_personas(row.item.item_id, row.item.personas, max_personas)
        except InputError as error:
            refusals.add(f"{row.where}: {error}", "item refused")
        else:
            yield row


def _vectors(rows: list[IndexRow], source: Source) -> Floats:
    """The vectors of all personas of the rows, one after another: (n_personas, dim) float32."""
    if isinstance(source, VectorFile):
        return np.concatenate([source.of(row.item) for row in rows])
    return source.encode_texts(
        [texts.persona_text(one, row.summary) for row in rows for one in row.item.personas]
    )


def _items(rows: list[IndexRow], vectors: Floats, hashes: dict[str, str]) -> Iterator[ItemVectors]:
    start = 0
    for row in rows:
        item_id, personas = row.item.item_id, row.item.personas
        end = start + len(personas)
        yield ItemVectors(item_id, personas, vectors[start:end], row.fields, hashes[item_id])
        start = end


# --- publishing --------------------------------------------------------------------------------


def publish(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    *,
    domain: str,
    refusals: Refusals,
    again: bool = False,
    shrink: bool = False,
    advance: Callable[[int], None] = lambda _: None,
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
    made, expected = IndexMetadata.of(source), _Expected(source.fingerprint)
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
            done = index_artifacts(
                folder,
                source,
                index,
                domain=domain,
                refusals=refusals,
                advance=advance,
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
                _verify_written(index, expected.written)
                _verify_scores(index, source, expected.sample)
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
    with closing(open_store(settings, name, made)) as store:
        return store.encode_all(source)


def _take_out(
    index: PersonaIndex, listed: _Listed, expected: _Expected, began: int, report: Published
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


class _Expected:
    """What an index must hold once it is written, and a sample of it."""

    def __init__(self, seed: str) -> None:
        self.item_ids = set[str]()
        self.written = set[str]()
        self.sample: list[tuple[IndexRow, Persona]] = []
        self._random = random.Random(seed)  # noqa: S311 - the same sample every time
        self._seen = 0

    def add(self, row: IndexRow, was_written: bool) -> None:
        self.item_ids.add(row.item.item_id)
        if was_written:
            self.written.add(row.item.item_id)
        for persona in row.item.personas:
            self._seen += 1
            if len(self.sample) < SAMPLE:
                self.sample.append((row, persona))
            elif (place := self._random.randrange(self._seen)) < SAMPLE:
                self.sample[place] = (row, persona)


def _verify_written(index: PersonaIndex, written: set[str]) -> None:
    """Each item is there with all its personas; those that were not written are known to be."""
    for batch in batches(sorted(written), CHUNK):
        missing = set(batch) - index.hashes(batch).keys()
        if missing:
            time.sleep(1)  # one that somebody is replacing just now is whole again soon
            missing -= index.hashes(sorted(missing)).keys()
        if missing:
            raise VerificationError(
                f"the item {min(missing)!r} is not whole in {index.location}; nothing was "
                "switched, publish again"
            )


def _verify_scores(
    index: PersonaIndex, source: Source, sample: list[tuple[IndexRow, Persona]]
) -> None:
    """Ask for each persona with the vector of its own text: its item must score 1."""
    if not sample:
        return
    if isinstance(source, VectorFile):
        fresh = np.stack([source.of(row.item)[_slot(row, one)] for row, one in sample])
    else:
        fresh = source.encode_texts([texts.persona_text(one, row.summary) for row, one in sample])
    least = 1 - source.tolerance - (STORED_FLOAT16 if index.datatype == "float16" else 0)
    asked = [[row.item.item_id] for row, _ in sample]
    answers = index.best_personas(fresh, asked, explain=0)
    for (row, persona), (match,) in zip(sample, answers, strict=True):
        if match.score is None or match.score < least:
            score = "nothing" if match.score is None else f"{match.score:.4f}"
            raise VerificationError(
                f"the persona {persona.persona_id!r} of item {row.item.item_id!r} scores {score} "
                f"with its own text in {index.location}, not {least:.4f} or more: its vector is "
                "not the encoder's; nothing was switched, publish again with --again"
            )


def _slot(row: IndexRow, persona: Persona) -> int:
    return row.item.personas.index(persona)
