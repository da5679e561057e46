"""Encode the items that changed and write them to an index."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import Self

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.index_rows import IndexRow
from indexer.artifacts.journal import arriving
from indexer.artifacts.lines import Refusals
from indexer.indexing.vector_files import VectorFile
from indexer.progress import SILENT, Progress
from indexer.review.screening import Policy
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.errors import InputError, PersonaError, TextsRefusedError
from p4r_qdrant.index import provisional
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import ItemVectors, check_personas, content_hash

CHUNK = 256
"""Items encoded together, by each worker of an encoder, which sorts their texts by length."""
MOST_ITEMS = 4096
"""Items in memory at once."""
SPOOLED = 64 << 20
"""Bytes of rows that wait in memory; more of them wait in a temporary file."""
KEPT = "items stay as p4r add, or another process, has written them to the index"

Source = Encoder | VectorFile
"""Where the personas' vectors come from."""


@dataclass
class IndexReport:
    """Counts of items written, unchanged and kept, and of refused records of any file.

    kept: items that stay as somebody else has written them. review: what decisions and rules
    withhold, in sentences.
    """

    written: int = 0
    unchanged: int = 0
    kept: int = 0
    refused: int = 0
    review: list[str] = field(default_factory=list)


def index_artifacts(  # noqa: PLR0913 - none of them belong together
    folder: ArtifactFolder,
    source: Source,
    index: PersonaIndex,
    *,
    domain: str,
    refusals: Refusals,
    policy: Policy | None = None,
    progress: Progress = SILENT,
) -> IndexReport:
    """Encode and write the personas of an artifact folder; unchanged items are skipped.

    Items none of whose personas may be served by `policy` and the decisions are deleted.

    If it is killed and run again, it ends in the same state and encodes only what is missing.
    Broken records are refused and counted. Items that somebody else writes meanwhile, such as
    `p4r add`, stay as they are.

    progress: each item is one step of a task that the caller starts.
    """
    known = settled_items(index, folder)
    indexer = ItemIndexer(source, index, refusals, known=known, provisional=True)
    rows = folder.index_rows(domain, refusals, policy)
    report = indexer.index_all(rows, progress=progress)
    index.delete_unchanged({one: known[one] for one in rows.screening.items if one in known})
    report.review = rows.screening.sentences()
    return report


def settled_items(index: PersonaIndex, folder: ArtifactFolder) -> dict[str, int]:
    """`PersonaIndex.written` without the items that the index may hold newer than the folder.

    `p4r add` journals an item, indexes it, and only then writes its personas to the folder: read
    this first, then the personas.
    """
    written = index.written()
    return {one: written[one] for one in written.keys() - arriving(folder)}


@dataclass
class ItemIndexer:
    """Encodes items and writes those that changed to an index.

    An item that cannot be indexed goes to `refusals`. again: treat every item as changed. known:
    `settled_items`; other items that the index holds stay as they are. provisional: give new items
    a provisional column in the collaborative part, where there is one. kept: counts items that stay
    as somebody else has written them.
    """

    source: Source
    index: PersonaIndex
    refusals: Refusals
    again: bool = False
    known: Mapping[str, int] | None = None
    provisional: bool = False
    kept: int = 0

    def index_all(
        self,
        rows: Iterable[IndexRow],
        *,
        ready: Callable[[], bool] = lambda: True,
        settled: Callable[[IndexRow, bool], None] = lambda *_: None,
        progress: Progress = SILENT,
    ) -> IndexReport:
        """Index a stream of items, chunk by chunk.

        ready: is asked after each chunk is read; until it is true, nothing is encoded or written.
        settled: is called for each item that is in the index now, and whether it was written.
        progress: each item is one step of a task that the caller starts.
        """
        report = IndexReport()
        size = min(CHUNK * self.source.workers, MOST_ITEMS)
        with _Waiting() as waiting:
            for chunk in batches(rows, size):
                changed, unchanged = self.compare(chunk)
                for row in unchanged:
                    settled(row, False)
                if unchanged:
                    report.unchanged += len(unchanged)
                    progress.advance(len(unchanged))
                if not ready():
                    waiting.add(changed)
                    continue
                for some in filter(None, chain(waiting.take(), [changed])):
                    written = self.write(some)
                    report.written += len(written)
                    for row in some:
                        if row.item.item_id in written:
                            settled(row, True)
                    progress.advance(len(some))
        report.kept, report.refused = self.kept, self.refusals.total
        return report

    def index_rows(self, rows: Sequence[IndexRow]) -> tuple[set[str], set[str]]:
        """Index some items; returns the ids of those written, and of those unchanged."""
        changed, unchanged = self.compare(rows)
        return self.write(changed), {row.item.item_id for row in unchanged}

    def compare(self, rows: Sequence[IndexRow]) -> tuple[list[IndexRow], list[IndexRow]]:
        """Split items into (changed, unchanged), compared with what the index holds."""
        held = {} if self.again else self.index.hashes([row.item.item_id for row in rows])
        changed, unchanged = list[IndexRow](), list[IndexRow]()
        for row in rows:
            stored = held.get(row.item.item_id)
            new = stored is None or stored != row_hash(row, self.source)
            (changed if new else unchanged).append(row)
        return changed, unchanged

    def write(self, rows: Sequence[IndexRow]) -> set[str]:
        """Encode and write items; returns the ids of those that were written."""
        where = {row.item.item_id: row.where for row in rows}
        written = set[str]()

        def refuse(item: ItemVectors, error: InputError) -> None:
            self.refusals.add(f"{where[item.item_id]}: {error}", "item refused")
            written.discard(item.item_id)

        def keep(item_id: str) -> None:
            self.kept += 1
            self.refusals.note(KEPT, where[item_id])
            written.discard(item_id)

        encodable = list(self._encodable(rows))
        if encodable:
            items = list(self._with_vectors(encodable))
            written.update(item.item_id for item in items)
            self.index.load(items, refuse, known=self.known, kept=keep)
            if self.provisional:
                new = ((one.item_id, one.vectors) for one in items if one.item_id in written)
                provisional.add(self.index, new)
        return written

    def _encodable(self, rows: Iterable[IndexRow]) -> Iterator[IndexRow]:
        """The items whose personas can be indexed; encoding the others would be a waste."""
        for row in rows:
            try:
                check_personas(row.item.item_id, row.item.personas, self.index.max_personas)
                if isinstance(self.source, VectorFile) and None in (row.positions or ()):
                    raise PersonaError(
                        f"item {row.item.item_id!r} has a persona with the texts of a reviewer, "
                        "for which the file has no vector; publish with an encoder"
                    )
            except InputError as error:
                self.refusals.add(f"{row.where}: {error}", "item refused")
            else:
                yield row

    def _with_vectors(self, rows: Sequence[IndexRow]) -> Iterator[ItemVectors]:
        """The items whose texts can be encoded, with the vectors of their personas."""
        vectors, reasons = row_vectors(rows, self.source)
        end = 0
        for row in rows:
            start, end = end, end + len(row.item.personas)
            refused = {
                place - start: reasons[place] for place in range(start, end) if place in reasons
            }
            if refused:
                error = TextsRefusedError(row.texts(), refused, vectors[start:end])
                self.refusals.add(f"{row.where}: {error}", "item refused")
                continue
            yield ItemVectors(
                row.item.item_id,
                row.item.personas,
                vectors[start:end],
                row.fields,
                _vectors_hash(row, self.source),
            )


def row_hash(row: IndexRow, source: Source) -> str:
    """The content hash of an item with its vectors (see `PersonaIndex.hashes`)."""
    return content_hash(row.item.personas, row.fields, _vectors_hash(row, source))


def _vectors_hash(row: IndexRow, source: Source) -> str:
    """The hash of vectors from a file; "" for those of an encoder, which the texts define."""
    return source.hash_of(row.item, row.positions) if isinstance(source, VectorFile) else ""


def row_vectors(rows: Sequence[IndexRow], source: Source) -> tuple[Floats, Mapping[int, str]]:
    """The vectors of all personas of the items, in order, and why there is none, by position.

    (n_personas, dim) float32; NaN where there is none.
    """
    if isinstance(source, VectorFile):
        return np.concatenate([source.of(row.item, row.positions) for row in rows]), {}
    texts = [text for row in rows for text in row.texts()]
    return encoded_where_possible(source.encode_documents, texts)


@dataclass
class _Waiting:
    """Lists of rows that wait to be written; a context manager.

    Many of them wait in a temporary file, because personas.jsonl is read once only.
    """

    _file: SpooledTemporaryFile[bytes] = field(
        default_factory=lambda: SpooledTemporaryFile(SPOOLED)  # noqa: SIM115 - closed at exit
    )

    def add(self, rows: list[IndexRow]) -> None:
        pickle.dump(rows, self._file)

    def take(self) -> Iterator[list[IndexRow]]:
        """All that wait, in order, and forget them."""
        end = self._file.tell()
        self._file.seek(0)
        while self._file.tell() < end:
            yield pickle.load(self._file)  # noqa: S301 - written by this very process
        self._file.seek(0)
        self._file.truncate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
