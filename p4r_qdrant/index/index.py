"""The persona index: write, replace, find, explain."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import IndexMismatchError, InputError, VectorError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.engine import IndexStats, StoredVector
from p4r_qdrant.index.filters import Condition, parse
from p4r_qdrant.index.matching import (
    check_query,
    is_gone,
    is_text,
    keep_better,
    rank_matches,
    unit_directions,
)
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import (
    CONTENT_HASH,
    GENERATION,
    ITEM_ID,
    SLOT,
    UNSETTLED,
    Point,
    check_item_id,
    make_points,
    stored_persona,
)
from p4r_qdrant.records import Persona, PersonaMatch, StoredPersona

LOAD_BATCH = 256
"""Items written by one request of a bulk load."""


EXPLAINED_AT_ONCE = 1000
"""Points whose texts (and vectors) one request brings."""


EXPLAIN_ATTEMPTS = 5
"""How often one call asks again where what it found was replaced before it was read."""


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """One item ready to be written: its personas, their vectors, and the caller's own fields.

    vectors: (n_personas, dim), any float type. `vectors_hash`: see `payload.content_hash`.
    """

    item_id: str
    personas: Sequence[Persona]
    vectors: npt.ArrayLike
    fields: Mapping[str, Any] = field(default_factory=dict)
    vectors_hash: str = ""


class PersonaIndex(ABC):
    """Personas by item, and the best persona of each candidate for a user.

    Thread-safe. A reader sees an item's old personas or its new ones, for an instant both, never
    none; of two writers of one item the later one stays. The engines differ in how they store,
    find and score points; how an item is replaced is written here, once.
    """

    metadata: IndexMetadata
    location: str
    version: str = ""
    """Which of the versions of the index this is (see `Versions`)."""
    datatype: str = "float32"
    """What the vectors are stored as."""

    def __init__(self, max_personas: int) -> None:
        self.max_personas = max_personas

    # -- writing ------------------------------------------------------------------------------

    def replace_item(
        self,
        item_id: str,
        personas: Sequence[Persona],
        vectors: npt.ArrayLike,
        fields: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put an item's personas in place of those it had.

        vectors: (n_personas, dim). `fields` are stored with each persona and can be filtered on.
        Returns False where a newer write of the item was already there and stays. Raises
        PersonaError or VectorError, and then nothing was written.
        """
        item = ItemVectors(item_id, personas, vectors, fields or {})
        return not self._replace(self._make_points(item))

    def load(
        self,
        items: Iterable[ItemVectors],
        refused: Callable[[ItemVectors, InputError], None] | None = None,
    ) -> int:
        """Write many items, as `replace_item` would, in batches; returns how many were written.

        An item that cannot be indexed is handed to `refused` and the load goes on; without
        `refused` its error is raised. Items that the index does not hold skip the bookkeeping by
        which two writers of an item settle, unless another writer brought them meanwhile.
        """
        written = 0
        for batch in batches(items, LOAD_BATCH):
            points = {}
            for item in batch:
                try:
                    points[item.item_id] = self._make_points(item)
                except InputError as error:
                    if refused is None:
                        raise
                    refused(item, error)
            held = self._generations(list(points))
            fresh = [one for item_id, own in points.items() if item_id not in held for one in own]
            known = [one for item_id, own in points.items() if item_id in held for one in own]
            if fresh:
                self._upsert(fresh)
                known += self._contested(fresh)
            if known:
                self._replace(known)
            written += len(points)
        return written

    def _contested(self, fresh: Sequence[Point]) -> list[Point]:
        """Of points just written as new, those whose item another writer has written too."""
        own = {point.payload[ITEM_ID]: point.payload[GENERATION] for point in fresh}
        contested = {
            item_id
            for item_id, generations in self._generations(list(own)).items()
            if set(generations) != {own[item_id]}
        }
        return [point for point in fresh if point.payload[ITEM_ID] in contested]

    def _make_points(self, item: ItemVectors) -> list[Point]:
        return make_points(
            item.item_id,
            item.personas,
            item.vectors,
            item.fields,
            generation=now(),
            dimension=self.metadata.dimension,
            max_personas=self.max_personas,
            vectors_hash=item.vectors_hash,
        )

    def _replace(self, points: list[Point]) -> set[str]:
        """Swap in `points` for what their items had; returns items where a newer write stays.

        New points are written first, marked unsettled, over older ones only; then what is older
        goes. A writer that finds itself overtaken takes its own points back; one that finds
        another's points under its own generation writes again, under the next. The mark goes
        last, so that `repair` finds every item that a kill left in between.
        """
        own = {point.payload[ITEM_ID]: point.payload[CONTENT_HASH] for point in points}
        item_ids = list(own)
        held = self._generations(item_ids).values()
        newest = max((one for generations in held for one in generations), default=0)
        generation = max(now(), newest + 1)  # a clock that lags must not lose a later write
        for point in points:
            point.payload[GENERATION] = generation
            point.payload[UNSETTLED] = 1
        self._upsert(points, older_than=generation)
        self._delete(item_ids, older_than=generation)
        newer = self._settle(item_ids, own, generation)
        tied = {item_id for item_id, newest in newer.items() if newest == generation}
        again = [point for point in points if point.payload[ITEM_ID] in tied]
        return (set(newer) - tied) | (self._replace(again) if again else set())

    def _settle(
        self, item_ids: Sequence[str], own: Mapping[str, str] | None = None, generation: int = 0
    ) -> dict[str, int]:
        """Leave each item with its newest generation, unmarked.

        `own`: the content hashes that a writer wrote under `generation`. Returns the newest
        generation of those items where that is not the writer's alone; they keep their mark.
        """
        newer: dict[str, int] = {}
        settled: dict[int, list[str]] = {}
        for item_id, generations in self._generations(item_ids).items():
            newest = max(generations)
            if len(generations) > 1:
                self._delete([item_id], older_than=newest)
            tied = own and newest == generation and generations[newest] != {own[item_id]}
            if own and (tied or newest > generation):
                newer[item_id] = newest
            else:
                settled.setdefault(newest, []).append(item_id)
        for newest, kept in settled.items():
            self._clear_mark(kept, newest)
        return newer

    def repair(self) -> int:
        """Finish replacements that a crash interrupted; returns how many items it settled.

        Opening the index for writing does this by itself.
        """
        unsettled = self._unsettled()
        for batch in batches(unsettled, LOAD_BATCH):
            self._settle(batch)
        return len(unsettled)

    def delete_item(self, item_id: str) -> bool:
        """Take an item out; False where it was not there."""
        there = bool(self._generations([check_item_id(item_id)]))
        if there:
            self._delete([item_id])
        return there

    def delete_items(self, item_ids: Iterable[str], *, written_before: int) -> None:
        """Take items out, but for what was written since `written_before` (microseconds)."""
        for batch in batches(item_ids, LOAD_BATCH):
            self._delete(batch, older_than=written_before)

    def record(self, **changes: Any) -> None:
        """Change what the index remembers of its making (see `IndexMetadata`)."""
        self.metadata = replace(self.metadata, **changes)
        self._write_metadata()

    def record_typical_user(self, vector: Floats) -> None:
        """Note the mean h_u of known users, (dim,), by which the persona prior is computed.

        Each persona's mean similarity to them is its dot product with this vector: it holds for
        personas that come later as well.
        """
        if vector.shape != (self.metadata.dimension,) or not np.isfinite(vector).all():
            raise VectorError(
                f"a typical user has {self.metadata.dimension} finite numbers, not the shape "
                f"{vector.shape}"
            )
        self.record(typical_user=b64encode(vector.astype("<f4").tobytes()).decode())

    def sole_writer(self) -> AbstractContextManager[None]:
        """A context in which no second one is: raises IndexLockedError where somebody is in it.

        For long work on the whole; single items are written without it. The embedded engine's
        folder is open in one process only, and that is enough.
        """
        return nullcontext()

    # -- reading ------------------------------------------------------------------------------

    def get(self, item_id: str) -> list[StoredPersona]:
        """An item's personas in their order; empty where it is not there."""
        if not is_text(item_id):
            return []
        return [stored_persona(payload) for payload in self._payloads([item_id])]

    def hashes(self, item_ids: Sequence[str]) -> dict[str, str]:
        """The content hash of each item that is there whole: it need not be written again."""
        found: dict[str, list[str]] = {}
        wanted = [ITEM_ID, CONTENT_HASH, UNSETTLED, SLOT]
        for payload in self._payloads([one for one in item_ids if is_text(one)], wanted):
            digest = "" if payload.get(UNSETTLED) else payload[CONTENT_HASH]
            found.setdefault(payload[ITEM_ID], []).append(digest)
        return {
            item_id: digests[0]
            for item_id, digests in found.items()
            if len(set(digests)) == 1 and digests[0].startswith(f"{len(digests)}-")
        }

    def item_ids(self) -> Iterator[str]:
        """The ids of all items, streamed, in no particular order."""
        return self._item_ids()

    def items(self) -> Iterator[list[StoredPersona]]:
        """All items, each as its personas in their order; streamed, in no particular order."""
        for item_ids in batches(self._item_ids(), LOAD_BATCH):
            together: dict[str, list[StoredPersona]] = {}
            for payload in self._payloads(item_ids):
                together.setdefault(payload[ITEM_ID], []).append(stored_persona(payload))
            yield from together.values()

    def best_personas(
        self,
        user_vectors: npt.ArrayLike,
        candidate_ids: Sequence[Sequence[str]],
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        explain: int | None = None,
        with_vectors: bool = False,
    ) -> list[list[PersonaMatch]]:
        """The best persona of each candidate for each user (Eq. 10), by exact scoring.

        user_vectors: (n_users, dim), whose lengths do not matter (cosine); or several directions
        for each user, an array (k, dim), of which the best counts, by dot product. candidate_ids:
        one list a user, of 1 to 10,000 ids; an id that is repeated counts once. `filter`: see
        `index.filters`.

        Returns, for each user, one match for each distinct candidate: best score first, ties by
        item id, then those without personas in the caller's order. The first `explain` of them
        (None: all) carry their persona's texts, and its vector `with_vectors`.
        """
        users, candidates = check_query(user_vectors, candidate_ids, self.metadata.dimension)
        return self._explained(users, candidates, parse(filter), explain, with_vectors)

    def _explained(
        self,
        users: list[Floats],
        candidates: list[list[str]],
        conditions: list[Condition],
        explain: int | None,
        with_vectors: bool,
        attempts: int = EXPLAIN_ATTEMPTS,
    ) -> list[list[PersonaMatch]]:
        """Score and explain; again for those users where a persona went away in between."""
        found = self._best_of_directions(users, candidates, conditions)
        rankings = [
            rank_matches(best, item_ids) for best, item_ids in zip(found, candidates, strict=True)
        ]
        if explain == 0:
            return rankings
        shown = self.explain(
            [match for ranking in rankings for match in ranking[:explain]],
            with_vectors=with_vectors,
        )
        told = iter(shown)
        rankings = [
            [*islice(told, len(ranking[:explain])), *ranking[len(ranking[:explain]) :]]
            for ranking in rankings
        ]
        gone = [user for user, ranking in enumerate(rankings) if is_gone(ranking[:explain])]
        if gone and attempts > 1:  # an item was replaced by fewer personas, or taken out, since
            again = self._explained(
                [users[user] for user in gone],
                [candidates[user] for user in gone],
                conditions,
                explain,
                with_vectors,
                attempts - 1,
            )
            for user, ranking in zip(gone, again, strict=True):
                rankings[user] = ranking
        return rankings

    def _best_of_directions(
        self, users: list[Floats], candidates: list[list[str]], conditions: list[Condition]
    ) -> list[dict[str, tuple[float, str]]]:
        """`_best_points` for users of one or more directions (k, dim) of any length."""
        if not users:
            return []
        unit, lengths = unit_directions(np.concatenate(users))
        owners = [user for user, rows in enumerate(users) for _ in rows]
        found = self._best_points(unit, [candidates[user] for user in owners], conditions)
        if len(owners) == len(users) and (lengths == 1).all():
            return found
        merged: list[dict[str, tuple[float, str]]] = [{} for _ in users]
        for user, length, scores in zip(owners, lengths.tolist(), found, strict=True):
            best = merged[user]
            for item_id, (score, point) in scores.items():
                keep_better(best, item_id, length * score, point)
        return merged

    def best_personas_of(
        self,
        user: StoredVector,
        candidate_ids: Sequence[str],
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        explain: int | None = None,
    ) -> list[PersonaMatch]:
        """`best_personas` of one user whose vector is where the personas are, vectors included.

        Raises IndexMismatchError where it is not there; the embedded engine has no such place.
        """
        conditions = parse(filter)
        item_ids = list(dict.fromkeys(candidate_ids))
        for attempt in range(1, EXPLAIN_ATTEMPTS + 1):
            ranking = rank_matches(self._best_points_of(user, item_ids, conditions), item_ids)
            shown = self.explain(ranking[:explain], with_vectors=True)
            ranking[: len(shown)] = shown
            if attempt == EXPLAIN_ATTEMPTS or not is_gone(shown):
                break
        return ranking

    def nearest_items(
        self,
        user_vector: npt.ArrayLike,
        limit: int,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        exclude: Collection[str] = (),
        with_vectors: bool = False,
    ) -> list[PersonaMatch]:
        """The items of the whole catalogue whose best persona is nearest to a user.

        user_vector: (dim,), or several directions (k, dim): see `best_personas`. `filter`: see
        `index.filters`; `exclude`: items that are not wanted.
        Returns up to `limit` matches with their texts, best first, ties by item id; approximate
        where the index has HNSW links. Raises VectorError and InputError.
        """
        if limit < 1:
            raise InputError(f"a limit must be at least 1, not {limit}")
        given: Any = [user_vector]
        [rows], _ = check_query(given, [[]], self.metadata.dimension)
        conditions = parse(filter)
        unwanted = tuple(one for one in dict.fromkeys(exclude) if is_text(one))
        if unwanted:
            conditions.append(Condition(ITEM_ID, unwanted, negated=True))
        best: dict[str, tuple[float, str]] = {}
        # Whoever is among the first by the best direction is among the first by that direction.
        for vector, length in zip(*unit_directions(rows), strict=True):
            for item_id, (score, point) in self._nearest(vector, limit, conditions).items():
                keep_better(best, item_id, float(length) * score, point)
        ranked = rank_matches(best, list(best))[:limit]
        return self.explain(ranked, with_vectors=with_vectors)

    def _nearest(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> dict[str, tuple[float, str]]:
        """(score, point id) of at least the `limit` nearest items, if there are so many."""
        best: dict[str, tuple[float, str]] = {}
        asked = 2 * limit  # an item may have several personas among the nearest
        while True:
            points = self._nearest_points(vector, asked, conditions)
            for score, point, item_id in points:
                best.setdefault(item_id, (score, point))
            if len(best) >= limit or len(points) < asked:
                return best
            asked *= 4

    def explain(
        self, matches: Sequence[PersonaMatch], *, with_vectors: bool = False
    ) -> list[PersonaMatch]:
        """The same matches with their personas' texts (and vectors): see `best_personas`.

        One whose persona was replaced in between comes back as it is now; one whose item was
        taken out in between comes back without a persona.
        """
        wanted = list({match.point_id for match in matches if match.point_id is not None})
        found: dict[str, tuple[dict[str, Any], Floats | None]] = {}
        for some in batches(wanted, EXPLAINED_AT_ONCE):
            found |= self._points(some, with_vectors)
        return [
            PersonaMatch(
                match.item_id,
                match.score,
                match.point_id,
                stored_persona(found[match.point_id][0]),
                found[match.point_id][1],
            )
            if match.point_id in found
            else match
            for match in matches
        ]

    @abstractmethod
    def stats(self) -> IndexStats:
        """Counts and settings, for people."""

    @abstractmethod
    def close(self) -> None:
        """Release the connection or the folder. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- what an engine gives -----------------------------------------------------------------

    @abstractmethod
    def _best_points(
        self, vectors: Floats, candidates: list[list[str]], conditions: list[Condition]
    ) -> list[dict[str, tuple[float, str]]]:
        """For each user, (score, point id) of each candidate that has personas.

        vectors: (n_users, dim) float32, normalised; candidates: distinct, up to 10,000 each.
        """

    def _best_points_of(
        self, user: StoredVector, candidates: list[str], conditions: list[Condition]
    ) -> dict[str, tuple[float, str]]:
        """`_best_points` of one user, by the name of the vector."""
        del candidates, conditions
        raise IndexMismatchError(f"{self.location} cannot look up {user.point_id}")

    @abstractmethod
    def _nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[tuple[float, str, str]]:
        """(score, point id, item id) of the nearest points, best first.

        vector: (dim,) float32, normalised.
        """

    @abstractmethod
    def _points(
        self, point_ids: Sequence[str], with_vectors: bool
    ) -> dict[str, tuple[dict[str, Any], Floats | None]]:
        """Payload and, if asked for, vector ((dim,) float32) of those points that are there."""

    @abstractmethod
    def _write_metadata(self) -> None:
        """Store `metadata`."""

    @abstractmethod
    def _upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        """Write points durably; over existing ones only where their generation is older."""

    @abstractmethod
    def _delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        """Delete the items' points, or only those of older generations."""

    @abstractmethod
    def _clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        """Take the mark UNSETTLED off the items' points of this generation."""

    @abstractmethod
    def _payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Payloads of the items' points (only `fields`), ordered by item as asked, then slot."""

    @abstractmethod
    def _item_ids(self) -> Iterator[str]:
        """The ids of all items, streamed."""

    @abstractmethod
    def _unsettled(self) -> list[str]:
        """The ids of items with marked points."""

    def _generations(self, item_ids: Sequence[str]) -> dict[str, dict[int, set[str]]]:
        """The generations that each item that is there has points of, and their content hashes."""
        found: dict[str, dict[int, set[str]]] = {}
        for payload in self._payloads(item_ids, [ITEM_ID, GENERATION, CONTENT_HASH, SLOT]):
            generations = found.setdefault(payload[ITEM_ID], {})
            generations.setdefault(payload[GENERATION], set()).add(payload[CONTENT_HASH])
        return found


def now() -> int:
    """A generation: the time in microseconds (exact in JSON readers that know only doubles)."""
    return time.time_ns() // 1000
