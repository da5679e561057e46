"""The persona index: write, replace, find and explain."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.closing import Closing
from p4r_qdrant.errors import InputError, VectorError
from p4r_qdrant.index import matching, replacing
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.collaborative import CollaborativeIndex
from p4r_qdrant.index.engine import Engine, IndexStats
from p4r_qdrant.index.filters import Condition, check_types, indexed, parse
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import (
    CONTENT_HASH,
    GENERATION,
    ITEM_ID,
    POSITION,
    UNSETTLED,
    ItemVectors,
    Point,
    check_item_id,
    check_owner,
    checked_fields,
    is_point_id,
    make_points,
    stored_persona,
)
from p4r_qdrant.index.query import Query, check_query, is_text
from p4r_qdrant.records import Persona, PersonaMatch, StoredPersona

MOST_SKIPPED = 100
"""Most items that a search leaves out of what it has found; more are a condition of it."""

MAX_PAGE = 1000
"""Most items of a page of the catalogue."""

_GONE: tuple[dict[str, Any], Floats | None] = ({}, None)
"""A point that was deleted meanwhile."""


class Page(NamedTuple):
    """A page of the catalogue: items as their personas in order, and where the next one begins."""

    items: list[list[StoredPersona]]
    next: str | None


class PersonaIndex(CollaborativeIndex, Closing):
    """Personas by item, and the best persona of each candidate for a user.

    A version may also have a collaborative part: see `CollaborativeIndex`.

    Thread-safe. A reader sees the old personas of an item, the new ones, or for an instant both,
    but never none. If two processes write one item, the later write wins. Use `open_index` to open
    an index.
    """

    def __init__(self, engine: Engine, version: str = "") -> None:
        """engine: the storage. version: the name of this version of the index."""
        self.engine = engine
        self.version = version

    @classmethod
    def repaired(cls, engine: Engine, version: str) -> PersonaIndex:
        """Open an index on an engine and repair it. If that fails, the engine is closed."""
        index = cls(engine, version)
        try:
            index.repair()
        except BaseException:
            index.close()
            raise
        return index

    @property
    def metadata(self) -> IndexMetadata:
        """The record of how the index was made."""
        return self.engine.metadata

    @property
    def location(self) -> str:
        """Where the index is, for people."""
        return self.engine.location

    @property
    def datatype(self) -> str:
        """Number format of the stored vectors: float32 or float16."""
        return self.engine.datatype

    @property
    def max_personas(self) -> int:
        """Largest number of personas that an item may be written with."""
        return self.engine.max_personas

    # -- writing ------------------------------------------------------------------------------

    def replace_item(
        self,
        item_id: str,
        personas: Sequence[Persona],
        vectors: npt.ArrayLike,
        fields: Mapping[str, Any] | None = None,
    ) -> bool:
        """Replace the personas of an item.

        vectors: (n_personas, dim). fields: stored with each persona; filters can use them.
        Returns False if the index already holds a newer write of the item, which is kept. Raises
        PersonaError or VectorError; then nothing is written.
        """
        item = ItemVectors(item_id, personas, vectors, fields or {})
        return not replacing.replace(self.engine, self._points(item))

    def load(
        self,
        items: Iterable[ItemVectors],
        refused: Callable[[ItemVectors, InputError], None] | None = None,
        *,
        known: Mapping[str, int] | None = None,
        kept: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Write many items in batches, as `replace_item` would; returns the number written.

        refused: called with each item that cannot be indexed, and its error; the load goes on.
        Without `refused` the error is raised. known: what `written` gave; items that somebody has
        written or deleted since stay as they are, and `kept` is called with their ids.
        """
        written = 0
        for batch in batches(items, replacing.WRITE_BATCH):
            generation, points = replacing.now(), {}
            for item in batch:
                try:
                    points[item.item_id] = self._points(item, generation)
                except InputError as error:
                    if refused is None:
                        raise
                    refused(item, error)
            written += len(points)
            if known is None:
                replacing.write(self.engine, points)
                continue
            for item_id in replacing.write_unchanged(self.engine, points, known):
                written -= 1
                kept(item_id)
        return written

    def check_fields(self, item_id: str, fields: Mapping[str, Any]) -> None:
        """Raise PersonaError if the fields of an item cannot be stored beside its personas."""
        check_types(item_id, fields, self.engine.fields)
        check_owner(item_id, fields, self.engine.tenant)
        checked_fields(item_id, fields)

    def _points(self, item: ItemVectors, generation: int = 0) -> list[Point]:
        check_types(item.item_id, item.fields, self.engine.fields)
        check_owner(item.item_id, item.fields, self.engine.tenant)
        return make_points(
            item,
            generation=generation or replacing.now(),
            dimension=self.metadata.dimension,
            max_personas=self.engine.max_personas,
            place=self.engine.point_id,
        )

    def repair(self) -> int:
        """Finish replacements that a crash interrupted; returns the number of items.

        Also makes missing payload indexes. Opening an index for writing calls this.
        """
        self.engine.complete()
        return replacing.repair(self.engine)

    def delete_item(self, item_id: str) -> bool:
        """Delete an item; False if it does not exist."""
        exists = bool(self.engine.payloads([check_item_id(item_id)], [ITEM_ID, POSITION]))
        if exists:
            self.engine.delete([item_id])
        self.remove_columns([check_item_id(item_id)])
        return exists

    def delete_unchanged(self, written: Mapping[str, int]) -> None:
        """Delete items that were not written since `written` was read; the others are kept.

        written: item id -> generation (see `written`). No clocks are compared.
        """
        if written:
            self.engine.delete_unchanged(written)
            self.engine.discard_derived()
            gone = written.keys() - self.hashes([*written]).keys()
            self.remove_columns(sorted(gone))

    def drop_personas(
        self, item_ids: Iterable[str], unwanted: Callable[[StoredPersona], bool]
    ) -> int:
        """Delete the unwanted personas of some items; returns their number.

        An item that is written meanwhile keeps the new write.
        """
        dropped, emptied = 0, dict[str, int]()
        for batch in batches(item_ids, replacing.WRITE_BATCH):
            held: dict[str, list[dict[str, Any]]] = {}
            for payload in self.engine.payloads(batch):
                held.setdefault(payload[ITEM_ID], []).append(payload)
            for item_id, payloads in held.items():
                kept = [one for one in payloads if not unwanted(stored_persona(one))]
                dropped += len(payloads) - len(kept)
                generation = max(one[GENERATION] for one in payloads)
                if not kept:
                    emptied[item_id] = generation
                elif len(kept) < len(payloads):
                    points = self._as_they_are(item_id, kept)
                    replacing.replace(self.engine, points, generation=generation + 1)
        self.delete_unchanged(emptied)
        return dropped

    def _as_they_are(self, item_id: str, payloads: Sequence[dict[str, Any]]) -> list[Point]:
        """The points that remain of an item, with these payloads and the stored vectors."""
        places = {self.engine.point_id(item_id, one[POSITION]): one for one in payloads}
        stored = self.engine.points(list(places), with_vectors=True)
        kept = [(places[one], vector) for one, (_, vector) in stored.items() if vector is not None]
        kept.sort(key=lambda one: one[0][POSITION])
        digest = f"{len(kept)}-changed"  # so that the next `p4r index` writes it again
        return [
            Point(
                self.engine.point_id(item_id, position),
                vector,
                {**payload, POSITION: position, CONTENT_HASH: digest},
            )
            for position, (payload, vector) in enumerate(kept)
        ]

    def written(self) -> dict[str, int]:
        """Item id -> generation of each item. A later write of an item has a higher one."""
        return dict(self.engine.written())

    def record(self, **changes: Any) -> None:
        """Change fields of the metadata (see `IndexMetadata`)."""
        self.engine.write_metadata(dataclasses.replace(self.metadata, **changes))

    def record_typical_user(self, vector: Floats) -> None:
        """Store the mean h_u of known users, (dim,), for the persona prior.

        The mean similarity of a persona to users is its dot product with this vector, also for
        personas that are added later.
        """
        if vector.shape != (self.metadata.dimension,) or not np.isfinite(vector).all():
            raise VectorError(
                f"a typical user has {self.metadata.dimension} finite numbers, not the shape "
                f"{vector.shape}"
            )
        self.record(typical_user=b64encode(vector.astype("<f4").tobytes()).decode())

    def optimize(self) -> None:
        """Compact the stored points while the index is in use. A server does this by itself."""
        self.engine.optimize()

    def purge(self) -> list[str]:
        """Remove deleted data from the files of the storage, while the index is in use.

        Returns sentences that say what remains there, and until when.
        """
        self.drop_columns_before()
        return self.engine.purge()

    # -- reading ------------------------------------------------------------------------------

    def get(self, item_id: str) -> list[StoredPersona]:
        """The personas of an item in their order; empty if the item does not exist."""
        if not is_text(item_id):
            return []
        return [stored_persona(payload) for payload in self.engine.payloads([item_id])]

    def hashes(self, item_ids: Sequence[str]) -> dict[str, str]:
        """Item id -> content hash. Missing and half-written items are left out.

        An item with an unchanged hash need not be written again.
        """
        found: dict[str, list[str]] = {}
        wanted = [ITEM_ID, CONTENT_HASH, UNSETTLED, POSITION]
        for payload in self.engine.payloads([one for one in item_ids if is_text(one)], wanted):
            digest = "" if payload.get(UNSETTLED) else payload[CONTENT_HASH]
            found.setdefault(payload[ITEM_ID], []).append(digest)
        return {
            item_id: digests[0]
            for item_id, digests in found.items()
            if len(set(digests)) == 1 and digests[0].startswith(f"{len(digests)}-")
        }

    def item_ids(self) -> Iterator[str]:
        """The ids of all items, streamed, in no particular order."""
        return self.engine.item_ids()

    def items(self) -> Iterator[list[StoredPersona]]:
        """All items, each as its personas in their order; streamed, in no particular order."""
        for item_ids in batches(self.engine.item_ids(), replacing.WRITE_BATCH):
            together: dict[str, list[StoredPersona]] = {}
            for payload in self.engine.payloads(item_ids):
                together.setdefault(payload[ITEM_ID], []).append(stored_persona(payload))
            yield from together.values()

    def page(
        self,
        limit: int,
        start: str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        words: str = "",
    ) -> Page:
        """A page of the catalogue, in an order that stays the same and has no meaning.

        limit: most items, 1 to 1000. start: `Page.next` of the page before. filter: see
        `index.filters`; an item's first persona has to match. words: words that the item's title
        must hold, in any case and order. A page can be short and not the last. Raises InputError.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InputError(f"a page has 1 to {MAX_PAGE} items, not {limit}")
        if start is not None and not is_point_id(start):
            raise InputError("the page begins at something that is no point id; open the first one")
        if not is_text(words):
            raise InputError("the words of the title are not valid Unicode")
        item_ids, following = self.engine.item_page(
            self._conditions(filter), words.strip(), limit, start
        )
        found: dict[str, list[StoredPersona]] = {one: [] for one in item_ids}
        for payload in self.engine.payloads(item_ids) if item_ids else ():
            found[payload[ITEM_ID]].append(stored_persona(payload))
        return Page([one for one in found.values() if one], following)

    def vectors(self) -> Iterator[tuple[str, Floats]]:
        """(item id, its persona vectors, (n, dim) float32 of unit length) of all items, by id."""
        for item_ids in batches(sorted(self.engine.item_ids()), replacing.WRITE_BATCH):
            yield from self.vectors_of(item_ids)

    def vectors_of(self, item_ids: Sequence[str]) -> Iterator[tuple[str, Floats]]:
        """As `vectors`, of some items; those that do not exist are missing."""
        own: dict[str, list[str]] = {}
        for payload in self.engine.payloads(item_ids, [ITEM_ID, POSITION]):
            item_id = payload[ITEM_ID]
            own.setdefault(item_id, []).append(self.engine.point_id(item_id, payload[POSITION]))
        stored = self.engine.points([one for ids in own.values() for one in ids], True)
        for item_id, ids in own.items():
            rows = [vector for one in ids if (vector := stored.get(one, _GONE)[1]) is not None]
            if rows:
                yield item_id, normalised(np.stack(rows))

    def best_personas(
        self,
        user_vectors: npt.ArrayLike,
        candidate_ids: Sequence[Sequence[str]],
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        explain: int | None = None,
        with_vectors: bool = False,
        top: int | None = None,
    ) -> list[list[PersonaMatch]]:
        """The best persona of each candidate for each user (Eq. 10), by exact scoring.

        user_vectors: (n_users, dim), compared by cosine; or for each user an array (k, dim) of
        directions, compared by dot product; the best direction counts.
        candidate_ids: one list of 1 to 10,000 ids for each user; repeated ids count once.
        filter: see `index.filters`. explain: number of first matches with their persona's texts
        (and its vector, if `with_vectors`); None: all. top: number of first matches to return;
        None: all.

        Returns, for each user, one match for each distinct candidate: best score first, ties by
        item id, then candidates without personas in the caller's order. Score and texts come from
        the same write of the item. Raises VectorError and InputError.
        """
        users, candidates = check_query(user_vectors, candidate_ids, self.metadata.dimension)
        query = Query(users, candidates, self._conditions(filter), explain, with_vectors, top)
        return matching.best_personas(self.engine, query)

    def best_scores(
        self, user_vectors: Sequence[Floats], candidate_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """The scores of `best_personas` of the same candidates for several users, without a filter.

        user_vectors: for each user directions (k, dim). candidate_ids: distinct. Returns
        (n_users, n_candidates) float64, NaN for candidates without personas.
        """
        lists = [candidate_ids] * len(user_vectors)
        users, _ = check_query(user_vectors, lists, self.metadata.dimension)
        return matching.best_scores(self.engine, users, list(candidate_ids))

    def nearest_items(
        self,
        user_vector: npt.ArrayLike,
        limit: int,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        exclude: Collection[str] = (),
        with_vectors: bool = False,
        explain: bool = True,
    ) -> list[PersonaMatch]:
        """The items of the whole catalogue whose best persona is nearest to a user.

        user_vector: (dim,), or several directions (k, dim): see `best_personas`. filter: see
        `index.filters`. exclude: ids of items to leave out. explain: whether texts are read.
        Returns up to `limit` matches with their texts, best first, ties by item id; approximate
        if the index has HNSW links. Raises VectorError and InputError.
        """
        if limit < 1:
            raise InputError(f"a limit must be at least 1, not {limit}")
        given: Any = [user_vector]
        [directions], _ = check_query(given, [[]], self.metadata.dimension)
        conditions = self._conditions(filter)
        unwanted = tuple(one for one in dict.fromkeys(exclude) if is_text(one))
        skipped = frozenset(unwanted if len(unwanted) <= MOST_SKIPPED else ())
        if len(unwanted) > MOST_SKIPPED:
            conditions.append(Condition(ITEM_ID, unwanted, negated=True))
        if not explain:
            return matching.nearest_scores(self.engine, directions, limit, conditions, skipped)
        found = matching.nearest_items(self.engine, directions, limit, conditions, skipped)
        return found if with_vectors else matching.without_vectors(found)

    def _conditions(self, filter: Mapping[str, Any] | None) -> list[Condition]:  # noqa: A002
        conditions = parse(filter)
        try:
            return indexed(conditions, self.engine.fields)
        except InputError:
            return indexed(conditions, self.engine.read_fields())

    def explain(
        self, matches: Sequence[PersonaMatch], *, with_vectors: bool = False
    ) -> list[PersonaMatch]:
        """The same matches with their personas' texts (and vectors).

        A persona that was replaced in between comes back as it is now. A match whose persona was
        deleted in between comes back without one.
        """
        return matching.explain(self.engine, matches, with_vectors)

    def stats(self) -> IndexStats:
        """Counts and settings, for people."""
        return self.engine.stats()

    def close(self) -> None:
        """Release the connection or the folder. Closing twice is fine."""
        self.engine.close()
