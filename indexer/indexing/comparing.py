"""Compare what is live with what a publish makes of it, for synthetic readers.

A reader is a persona that both have with the same texts, taken for a user (Eq. 10). Readers are
chosen without chance: of each segment of the live version the persona nearest to its centre, then
personas by their hash, of which the ones that are farthest apart. Both indexes are streamed; memory
holds the readers and their first items.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from indexer.artifacts.index_rows import IndexRow
from indexer.indexing.items import CHUNK, ItemIndexer, row_vectors
from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import TooMuchChangeError
from p4r_qdrant.index import segments
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.changes import Changes, ReaderChange
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.records import StoredPersona

READERS = 12
"""Synthetic readers of a comparison."""
FIRST = 10
"""Items of a reader that are compared."""
SAMPLE = 1000
"""Items that readers are chosen from."""
EXAMPLES = 20
"""Ids of gained and lost items that are kept."""
ITEMS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Reader:
    """A persona taken for a user: its vectors (dim,) in the live index and in the new one."""

    item_id: str
    persona: StoredPersona
    before: Floats
    after: Floats


def of_versions(live: PersonaIndex, new: PersonaIndex) -> Changes:
    """The changes from the live version to a new one that is filled, perhaps by another encoder."""
    before, after = set(live.item_ids()), set(new.item_ids())
    common = before & after
    changed = sum(_differing(live, new, some) for some in batches(sorted(common), CHUNK))
    readers = _readers(live, common, new)
    first = _FirstItems([one.before for one in readers])
    first.add_all(live.vectors())
    then = _FirstItems([one.after for one in readers])
    then.add_all(new.vectors())
    return _changes(before, after, changed, readers, first, then)


def of_update(
    live: PersonaIndex,
    indexer: ItemIndexer,
    rows: Iterable[IndexRow],
    stays: Callable[[], Collection[str]],
) -> Changes:
    """The changes that writing `rows` to the live index makes; nothing is written.

    stays: is called once the rows are read; returns the live items that are not deleted.
    """
    before = set(live.item_ids())
    new: list[tuple[str, Floats]] = []
    for chunk in batches(rows, CHUNK):
        changed, _ = indexer.compare(chunk)
        if changed:
            vectors, refused = row_vectors(changed, indexer.source)
            end = 0
            for row in changed:
                start, end = end, end + len(row.item.personas)
                if not any(place in refused for place in range(start, end)):
                    new.append((row.item.item_id, vectors[start:end]))
    written = {item_id for item_id, _ in new}
    same = before & set(stays()) - written
    readers = _readers(live, same, live)
    first, then = (_FirstItems([one.before for one in readers]) for _ in range(2))
    for some in batches(live.vectors(), ITEMS_AT_ONCE):
        first.add(some)
        then.add([one for one in some if one[0] in same])
    then.add_all(new)
    return _changes(before, same | written, len(written & before), readers, first, then)


def check(changes: Changes, most: float | None) -> None:
    """Raise TooMuchChangeError if more than the share `most` of the first places change."""
    if most is None or changes.share <= most:
        return
    what = (
        f"{changes.share:.1%} of the first {FIRST} places of {len(changes.readers)} synthetic "
        "readers change"
        if changes.readers
        else "no persona stays as it is, so that no synthetic reader can compare"
    )
    raise TooMuchChangeError(
        f"{what}, and --max-change {most:g} allows less; the live version did not change: look at "
        "it with --preview, or allow more"
    )


def _differing(live: PersonaIndex, new: PersonaIndex, item_ids: Sequence[str]) -> int:
    """How many items have other texts or fields."""
    here, there = live.hashes(item_ids), new.hashes(item_ids)
    return sum(here.get(one) != there.get(one) for one in item_ids)


def _changes(
    before: set[str],
    after: set[str],
    changed: int,
    readers: Sequence[Reader],
    first: _FirstItems,
    then: _FirstItems,
) -> Changes:
    gained, lost = sorted(after - before), sorted(before - after)
    own = [one.item_id for one in readers]
    rows = zip(readers, first.items(own), then.items(own), strict=True)
    return Changes(
        len(before),
        len(after),
        len(gained),
        len(lost),
        changed,
        tuple(gained[:EXAMPLES]),
        tuple(lost[:EXAMPLES]),
        tuple(
            ReaderChange(one.persona.persona_id, one.persona.label, old, new)
            for one, old, new in rows
        ),
    )


def _readers(live: PersonaIndex, common: Collection[str], new: PersonaIndex) -> list[Reader]:
    """Up to READERS personas that both indexes have with the same texts."""
    examples = [one.examples for one in segments.from_text(live.metadata.segments)]
    of_segments = {
        (own[0].item_id, own[0].persona_id) for own in examples if own and own[0].item_id in common
    }
    sample = heapq.nsmallest(SAMPLE, common, key=_hash)
    wanted = [*dict.fromkeys([*(item_id for item_id, _ in sorted(of_segments)), *sample])]
    after = dict(new.vectors_of(wanted)) if new is not live else {}
    firsts, others = list[Reader](), list[Reader]()
    for item_id, rows in live.vectors_of(wanted):
        there = rows if new is live else after.get(item_id)
        personas = live.get(item_id)
        now = personas if new is live else new.get(item_id)
        if there is None or not len(there) == len(rows) == len(personas) == len(now):
            continue
        one_of_each = int(_hash(item_id), 16) % len(rows)
        for place, persona in enumerate(personas):
            is_of_segment = (item_id, persona.persona_id) in of_segments
            if (is_of_segment or place == one_of_each) and _texts(persona) == _texts(now[place]):
                reader = Reader(item_id, persona, rows[place], there[place])
                (firsts if is_of_segment else others).append(reader)
    chosen = sorted(firsts, key=lambda one: one.persona.persona_id)[:READERS]
    others.sort(key=lambda one: _hash(one.item_id))
    return chosen + _far_apart(chosen, others, READERS - len(chosen))


def _far_apart(chosen: Sequence[Reader], others: Sequence[Reader], most: int) -> list[Reader]:
    """Readers of `others`, each the one that is farthest from all those chosen before."""
    if not others:
        return []
    rows = np.stack([one.before for one in others])
    nearest = np.full(len(rows), -np.inf)
    for reader in chosen:
        nearest = np.maximum(nearest, rows @ reader.before)
    found: list[Reader] = []
    for _ in range(min(most, len(rows))):
        farthest = int(np.argmin(nearest))
        found.append(others[farthest])
        nearest = np.maximum(nearest, rows @ rows[farthest])
        nearest[farthest] = np.inf
    return found


def _texts(persona: StoredPersona) -> tuple[str, str, str]:
    return persona.name, persona.description, persona.preference_rationale


def _hash(item_id: str) -> str:
    return blake2b(item_id.encode(), digest_size=8).hexdigest()


class _FirstItems:
    """The items with the largest scores for each of some vectors (Eq. 10), of a stream."""

    def __init__(self, vectors: Sequence[Floats]) -> None:
        self._vectors = np.stack(vectors) if len(vectors) else None
        self._best: list[list[tuple[float, str]]] = [[] for _ in vectors]

    def add(self, items: Sequence[tuple[str, Floats]]) -> None:
        """Score items: (item id, its persona vectors (n, dim))."""
        if self._vectors is None or not items:
            return
        starts = np.cumsum([0, *(len(rows) for _, rows in items[:-1])])
        products = self._vectors @ np.concatenate([rows for _, rows in items]).T
        # Rounded: what else is in a product changes its last digits, and so the order of equals.
        scores = np.maximum.reduceat(products, starts, axis=1).round(5)
        for best, row in zip(self._best, scores, strict=True):
            most = min(FIRST + 1, len(row))  # one more, for the reader's own item
            least = np.partition(row, len(row) - most)[len(row) - most]
            new = [
                (-float(row[one]), items[one][0]) for one in np.flatnonzero(row >= least).tolist()
            ]
            best[:] = heapq.nsmallest(FIRST + 1, [*best, *new])

    def add_all(self, items: Iterable[tuple[str, Floats]]) -> None:
        """Score a stream of items."""
        for some in batches(items, ITEMS_AT_ONCE):
            self.add(some)

    def items(self, without: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The first items of each vector, best first, without one item each."""
        for best, own in zip(self._best, without, strict=True):
            yield tuple(item_id for _, item_id in best if item_id != own)[:FIRST]
