"""Artifacts to index: read, encode what changed, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from indexer.artifacts import ArtifactFolder, IndexRow, Refusals
from p4r_qdrant import texts
from p4r_qdrant.encoder import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.base import ItemVectors, PersonaIndex, batches
from p4r_qdrant.index.payload import check_personas, content_hash

CHUNK = 256
"""Items encoded together; their texts are sorted by length inside the encoder."""


@dataclass
class IndexReport:
    """What `index_artifacts` did, in items (refused: in records of any file)."""

    written: int = 0
    unchanged: int = 0
    refused: int = 0


def index_artifacts(
    folder: ArtifactFolder,
    encoder: Encoder,
    index: PersonaIndex,
    *,
    domain: str,
    refusals: Refusals,
    advance: Callable[[int], None] = lambda _: None,
) -> IndexReport:
    """Encode and write the personas of an artifact folder; items that did not change are skipped.

    Killed at any moment and run again it ends in the same state, and encodes only what is
    missing. A broken record is refused and counted, and the others go on. `advance` is told how
    many items each chunk settled.
    """
    report = IndexReport()
    for chunk in batches(folder.index_rows(domain, refusals), CHUNK):
        written, unchanged = index_rows(chunk, encoder, index, refusals)
        report.written += len(written)
        report.unchanged += len(unchanged)
        advance(len(chunk))
    report.refused = refusals.total
    return report


def index_rows(
    rows: list[IndexRow], encoder: Encoder, index: PersonaIndex, refusals: Refusals
) -> tuple[set[str], set[str]]:
    """Encode and write what changed: the ids of the items written, and of those unchanged.

    An item that cannot be indexed is in neither, and in `refusals`.
    """
    held = index.hashes([row.item.item_id for row in rows])
    unchanged = {row.item.item_id for row in rows if _hash(row) == held.get(row.item.item_id)}
    where = {row.item.item_id: row.where for row in rows if row.item.item_id not in unchanged}
    changed = [row for row in rows if row.item.item_id in where]
    written = set[str]()

    def refuse(item: ItemVectors, error: InputError) -> None:
        refusals.add(f"{where[item.item_id]}: {error}", "item refused")
        written.discard(item.item_id)

    encodable = list(_encodable(changed, index.max_personas, refusals))
    if encodable:
        written.update(row.item.item_id for row in encodable)
        index.load(_encoded(encodable, encoder), refuse)
    return written, unchanged


def _hash(row: IndexRow) -> str:
    return content_hash(row.item.personas, row.fields)


def _encodable(rows: list[IndexRow], max_personas: int, refusals: Refusals) -> Iterator[IndexRow]:
    """The rows worth the encoder's time."""
    for row in rows:
        try:
            check_personas(row.item.item_id, row.item.personas, max_personas)
        except InputError as error:
            refusals.add(f"{row.where}: {error}", "item refused")
        else:
            yield row


def _encoded(rows: list[IndexRow], encoder: Encoder) -> Iterator[ItemVectors]:
    vectors = encoder.encode_texts(
        [texts.persona_text(one, row.summary) for row in rows for one in row.item.personas]
    )
    start = 0
    for row in rows:
        end = start + len(row.item.personas)
        yield ItemVectors(row.item.item_id, row.item.personas, vectors[start:end], row.fields)
        start = end
