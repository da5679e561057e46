"""The contract of an engine: how points are stored, found and scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.columns import ColumnSets
from p4r_qdrant.index.filters import Condition
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import Point

BestPoints = dict[str, tuple[float, str]]
"""Item id -> (score, point id) of the item's best persona. Items without personas are missing."""

NearPoint = tuple[float, str, str]
"""(score, point id, item id) of a point that a search over the whole catalogue found."""

ItemPage = tuple[list[str], str | None]
"""Item ids of a page, and the id of the point that the next page begins with; None: the last."""

StoredPoints = dict[str, tuple[dict[str, Any], Floats | None]]
"""Point id -> its payload and, if it was requested, its vector, (dim,) float32."""


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Counts and settings of an index, as `p4r status` shows them.

    details: properties that only this engine has, as texts for people.
    """

    engine: str
    location: str
    personas: int
    items: int
    metadata: IndexMetadata
    details: Mapping[str, str]


class Engine(Protocol):
    """Stores the points of one version of an index. Thread-safe.

    location: where the points are, for people. datatype: number format of the stored vectors.
    max_personas: the expected maximum of personas of an item. waits: whether calls wait for a
    server, so that two at once take less time than one after the other. tenant: whose catalogue it
    is; "" without tenants.
    """

    metadata: IndexMetadata
    location: str
    datatype: str
    max_personas: int
    waits: bool
    tenant: str

    @property
    def columns(self) -> ColumnSets:
        """The sets of columns of the collaborative part."""

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields that can be filtered on, and their types: keyword, integer, float, bool."""

    def point_id(self, item_id: str, position: int) -> str:
        """The id of the point of an item's persona."""

    def best_points(
        self,
        vectors: Floats,
        candidates: list[list[str]],
        conditions: list[Condition],
        top: int | None = None,
    ) -> list[BestPoints]:
        """The best point of each candidate for each user, by exact scoring.

        vectors: (n_users, dim) float32, normalised; candidates: distinct, up to 10,000 each.
        top: candidates of each user that must be there, the best ones and those with equal scores;
        others may be missing. None: all.
        """

    def best_scores(self, vectors: Floats, item_ids: list[str]) -> Floats:
        """The scores of `best_points` of items for several users: (n_users, n_items) float32.

        NaN for items without personas. vectors: (n_users, dim) float32, normalised; item_ids:
        distinct.
        """

    def nearest_points(
        self, vector: Floats, limit: int, conditions: list[Condition]
    ) -> list[NearPoint]:
        """The nearest points of the whole catalogue, best first.

        vector: (dim,) float32, normalised.
        """

    def state(self) -> int | None:
        """A number that every write changes; None during a write, or if other processes write."""

    def points(self, point_ids: Sequence[str], with_vectors: bool) -> StoredPoints:
        """Read points by id; ids that do not exist are missing in the answer."""

    def payloads(
        self, item_ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Payloads of the items' points, ordered by item as in `item_ids`, then by position.

        fields: the payload fields to read; None: all.
        """

    def points_of(self, item_ids: Sequence[str]) -> list[Point]:
        """The items' points as they are stored: payloads with their keys in order, and vectors.

        A point that is written meanwhile may be missing.

        Ordered by item as in `item_ids`, then by position.
        """

    def item_ids(self) -> Iterator[str]:
        """The ids of all items, streamed, in no particular order."""

    def item_page(
        self, conditions: list[Condition], words: str, limit: int, start: str | None
    ) -> ItemPage:
        """Up to `limit` items whose first persona meets the conditions, by point id from `start`.

        words: words that the item's title must hold, in any case and order; "": any title.
        start: None for the first page. A page can be short and not the last.
        """

    def written(self) -> Iterator[tuple[str, int]]:
        """(item id, generation) of each item, streamed, in no particular order."""

    def unsettled(self) -> list[str]:
        """The ids of items with points that carry the mark UNSETTLED."""

    def upsert(self, points: Sequence[Point], older_than: int | None = None) -> None:
        """Write points durably.

        older_than: overwrite an existing point only if its generation is older than this.
        """

    def delete(self, item_ids: Sequence[str], older_than: int | None = None) -> None:
        """Delete the items' points; with `older_than` only those of older generations."""

    def delete_unchanged(self, written: Mapping[str, int]) -> None:
        """Delete the points of items up to a generation of each: item id -> generation."""

    def clear_mark(self, item_ids: Sequence[str], generation: int) -> None:
        """Remove the mark UNSETTLED from the items' points of this generation."""

    def write_metadata(self, metadata: IndexMetadata) -> None:
        """Store `metadata` with the index: the fields that differ from those that were read."""

    def read_metadata(self) -> None:
        """Read the metadata again, which another process may have written."""

    def replacing(self) -> AbstractContextManager[object]:
        """Context manager that one thread at a time is in, to replace items.

        A reader that is in it finds no item replaced between two reads. Does nothing on a server,
        where other processes write as well.
        """

    def discard_derived(self) -> None:
        """Discard data derived from the points. Called after a repair changed them."""

    def complete(self) -> None:
        """Declare the fields of the settings; make payload indexes that older releases lack."""

    def read_fields(self) -> Mapping[str, str]:
        """`fields` as they are now; another process may have declared some."""

    def optimize(self) -> None:
        """See `PersonaIndex.optimize`."""

    def purge(self) -> list[str]:
        """See `PersonaIndex.purge`."""

    def stats(self) -> IndexStats:
        """Counts and settings, for people."""

    def close(self) -> None:
        """Release the connection or the folder. Closing twice is fine."""
