"""Sort, join and filter a data set in a private SQLite database on disk.

The database lies in TMPDIR and goes with the process, however it ends. Sources may be compressed,
so texts cannot be looked up in place, and a second pass over them could not sort. Memory holds 16
bytes for each interaction while they are filtered, and the database's cache.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self

import numpy as np

from indexer.datasets.filtering import draws, k_core, sample_users
from indexer.datasets.selection import Selection
from indexer.datasets.sources import Row
from indexer.datasets.splits import leave_one_out
from p4r_qdrant.errors import InputError, StorageFullError
from p4r_qdrant.records import Item, Review

REPEATED_ITEM = "repeated item (the first stays)"
REPEATED_REVIEW = "repeated review of a user and item (the newest stays)"
UNKNOWN_ITEM = "review of an item without metadata"
OTHER_ITEM = "review of an item of another city or category"
NOT_IN_CORE = "interaction outside the k-core"
NOT_SAMPLED = "interaction of a user outside the sample"
ITEM_UNUSED = "item without reviews"

_CACHE_KIB = 64 * 1024
_BATCH = 1000
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE item (
    number INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, record TEXT, wanted INTEGER NOT NULL);
CREATE TABLE user (number INTEGER PRIMARY KEY, user_id TEXT NOT NULL UNIQUE);
CREATE TABLE review (
    line INTEGER PRIMARY KEY, user_id TEXT NOT NULL, item_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL, rating REAL NOT NULL);
CREATE TABLE words (line INTEGER PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE kept (line INTEGER PRIMARY KEY, user INTEGER NOT NULL, item INTEGER NOT NULL);
"""
# CROSS JOIN makes SQLite walk the tables in the order they are written in.
_KEEP_NEWEST = """
INSERT INTO kept SELECT line, user, item FROM (
    SELECT line, user.number AS user, item.number AS item, row_number() OVER (
        PARTITION BY user.number, item.number ORDER BY timestamp DESC, line DESC) AS newness
    FROM review CROSS JOIN item USING (item_id) CROSS JOIN user USING (user_id)
    WHERE item.wanted)
WHERE newness = 1 ORDER BY line
"""


class Store:
    """The items and reviews of a data set in a private database on disk; a context manager.

    left_out: gets the numbers of records that are left out, by reason.
    """

    def __init__(self, left_out: Counter[str]) -> None:
        self._left_out = left_out
        # Without a name SQLite makes a file that no other process sees and that goes with this one.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        self._run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._run("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._database.close()
        if isinstance(error, sqlite3.OperationalError):
            if "full" in str(error):
                raise StorageFullError(
                    "no space left for the temporary database; name a larger disk in TMPDIR"
                ) from None
            raise InputError(
                f"the temporary database failed ({error}); name a writable folder in TMPDIR"
            ) from None

    def add_items(self, items: Iterable[Item], selection: Selection) -> None:
        """Store the items; of a repeated id, the first."""
        rows = ((one.item_id, _json(one.model_dump()), selection.wants(one)) for one in items)
        seen = 0

        def counted() -> Iterator[tuple[Any, ...]]:
            nonlocal seen
            for row in rows:
                seen += 1
                yield row

        self._database.executemany(
            "INSERT OR IGNORE INTO item (item_id, record, wanted) VALUES (?, ?, ?)", counted()
        )
        self._leave_out(REPEATED_ITEM, seen - self.count("item"))

    def add_reviews(self, reviews: Iterable[Review]) -> None:
        """Store the reviews, repeated ones too; their texts apart, as few passes need them."""
        lines = enumerate(reviews, start=1)
        while batch := list(islice(lines, _BATCH)):
            self._database.executemany(
                "INSERT INTO review VALUES (?, ?, ?, ?, ?)",
                (
                    (line, one.user_id, one.item_id, one.timestamp, one.rating)
                    for line, one in batch
                ),
            )
            self._database.executemany(
                "INSERT INTO words VALUES (?, ?, ?)",
                ((line, one.title, one.text) for line, one in batch),
            )

    def relate(self, unknown_items: bool) -> None:
        """Number users and items; keep the newest review of each user and wanted item."""
        self._run(
            "INSERT INTO item (item_id, wanted) SELECT DISTINCT item_id, ? FROM review"
            " WHERE item_id NOT IN (SELECT item_id FROM item) ORDER BY item_id",
            unknown_items,
        )
        self._run("INSERT INTO user (user_id) SELECT DISTINCT user_id FROM review ORDER BY user_id")
        self._run(_KEEP_NEWEST)
        unwanted = dict(
            self._run(
                "SELECT record IS NULL, count(*) FROM review CROSS JOIN item USING (item_id)"
                " WHERE NOT wanted GROUP BY 1"
            )
        )
        self._leave_out(UNKNOWN_ITEM, unwanted.get(1, 0))
        self._leave_out(OTHER_ITEM, unwanted.get(0, 0))
        repeats = self.count("review") - sum(unwanted.values()) - self.count("kept")
        self._leave_out(REPEATED_REVIEW, repeats)

    def select(self, selection: Selection) -> None:
        """Drop reviews outside the k-core and the sample; count the items without reviews."""
        if selection.k_core > 1 or selection.users is not None:
            self._filter(selection)
        unused = self._run(
            "SELECT count(*) FROM item"
            " WHERE record IS NOT NULL AND number NOT IN (SELECT item FROM kept)"
        )
        self._leave_out(ITEM_UNUSED, unused.fetchone()[0])

    def _filter(self, selection: Selection) -> None:
        pairs = np.fromiter(
            self._run("SELECT line, user, item FROM kept ORDER BY line"),
            dtype=[("line", np.int64), ("user", np.int32), ("item", np.int32)],
        )
        left = pairs[k_core(pairs["user"], pairs["item"], selection.k_core)]
        self._leave_out(NOT_IN_CORE, len(pairs) - len(left))
        if selection.users is not None:
            ids = self._run("SELECT user_id FROM user ORDER BY number")
            lots = draws((user_id for (user_id,) in ids), selection.seed)
            sample = left[sample_users(left["user"] - 1, lots, selection.users)]
            self._leave_out(NOT_SAMPLED, len(left) - len(sample))
            left = sample[k_core(sample["user"], sample["item"], selection.k_core)]
            self._leave_out(NOT_IN_CORE, len(sample) - len(left))
        dropped = np.setdiff1d(pairs["line"], left["line"], assume_unique=True)
        self._database.executemany(
            "DELETE FROM kept WHERE line = ?", ((int(line),) for line in dropped)
        )

    def items(self) -> Iterator[str]:
        """The lines of items.jsonl, by id; an item without metadata has only its id."""
        for item_id, record in self._run(
            "SELECT item_id, record FROM item WHERE number IN (SELECT item FROM kept)"
            " ORDER BY item_id"
        ):
            yield record or _json(Item(item_id=item_id).model_dump())

    def reviews(self) -> Iterator[str]:
        """The lines of reviews.jsonl, by time, user and item."""
        for row in self._run(
            f"SELECT {', '.join(Review.model_fields)}"  # noqa: S608 - names from the code
            " FROM kept CROSS JOIN review USING (line) CROSS JOIN words USING (line)"
            " ORDER BY timestamp, user_id, item_id"
        ):
            yield _json(dict(zip(Review.model_fields, row, strict=True)))

    def splits(self, selection: Selection) -> Iterator[str]:
        """The lines of splits.jsonl, by user."""
        interactions = self._run(
            "SELECT user_id, item_id, timestamp FROM kept CROSS JOIN review USING (line)"
            " ORDER BY user_id, line"
        )
        for split in leave_one_out(
            interactions, ties=selection.ties, min_interactions=selection.min_interactions
        ):
            yield _json(split.model_dump())

    def count(self, table: str) -> int:
        """Rows of a table."""
        found: int = self._run(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        return found

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._database.execute(statement, values)

    def _leave_out(self, reason: str, count: int) -> None:
        if count:
            self._left_out[reason] += count


def _json(record: Row) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False)
