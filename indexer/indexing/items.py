"""Items of an artifact folder into an index: encode what changed, write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from indexer.artifacts.folder import ArtifactFolder, IndexRow
from indexer.artifacts.lines import Refusals
from indexer.indexing.vector_files import VectorFile
from indexer.progress import SILENT, Progress
from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import ItemVectors, PersonaIndex
from p4r_qdrant.index.payload import check_personas, content_hash

CHUNK = 256
"""Items encoded together, by each worker of an encoder; their texts are sorted by length there."""


MOST_ITEMS = 4096
"""Items that are in memory at once."""


Source = Encoder | VectorFile
"""Where the personas' vectors come from."""


@dataclass
class IndexReport:
    """What `index_artifacts` did, in items (refused: in records of any file)."""

    written: int = 0
    unchanged: int = 0
    refused: int = 0


def index_artifacts(
    folder: ArtifactFolder,
    encoder: Source,
    index: PersonaIndex,
    *,
    domain: str,
    refusals: Refusals,
    progress: Progress = SILENT,
    settled: Callable[[IndexRow, bool], None] = lambda *_: None,
    again: bool = False,
) -> IndexReport:
    """Encode and write the personas of an artifact folder; items that did not change are skipped.

    Killed at any moment and run again it ends in the same state, and encodes only what is
    missing; `again` encodes everything. A broken record is refused and counted, and the others go
    on. Each item is one step of `progress`, in a task that the caller starts; `settled` is called
    with every item that is there now, and whether it was written.
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
        progress.advance(len(chunk))
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
    hashes = {row.item.item_id: row_vectors_hash(row, encoder) for row in rows}
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
        vectors = row_vectors(encodable, encoder)
        index.load(_items(encodable, vectors, hashes), refuse)
    return written, unchanged


def row_vectors_hash(row: IndexRow, source: Source) -> str:
    """The hash of vectors from a file; empty for vectors that an encoder makes."""
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


def row_vectors(rows: list[IndexRow], source: Source) -> Floats:
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
