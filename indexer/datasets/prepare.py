"""A published data set, turned into items.jsonl, reviews.jsonl and splits.jsonl.

Reviews are sorted, joined with their items and rid of repeats in a private SQLite database on
disk (in TMPDIR), which vanishes with the process however it ends: sources may be compressed, so
texts cannot be looked up in place, and a second pass over them could not sort. Memory holds 16
bytes for each interaction while they are filtered, and the database's cache.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from indexer.artifacts.lines import Refusals, validation_sentence
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.writing import written_whole
from indexer.datasets import tables
from indexer.datasets.amazon import AMAZON_2014, AMAZON_2018, AMAZON_2023
from indexer.datasets.filtering import draws, k_core, sample_users
from indexer.datasets.output_folder import output_folder
from indexer.datasets.plain import plain
from indexer.datasets.sources import Format, Row, Source, read_rows
from indexer.datasets.splits import MIN_INTERACTIONS, Ties, leave_one_out
from indexer.datasets.values import storable
from indexer.datasets.yelp import YELP
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError, StorageFullError
from p4r_qdrant.records import Item, Review

FORMATS: dict[str, Format] = {
    "amazon-2023": AMAZON_2023,
    "amazon-2018": AMAZON_2018,
    "amazon-2014": AMAZON_2014,
    "yelp": YELP,
    "plain": plain(),
}

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


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a data set is wanted.

    Items: those of one of `cities` and in one of `categories` (whatever the case); reviews of
    items without metadata stay with `unknown_items`, or where there are no items files. Then
    `k_core`; then a sample of `users`, the same for the same `seed`, and `k_core` once more: what
    is written is a k-core, and may hold fewer users than were asked for. `ties` and
    `min_interactions` are those of `leave_one_out`.
    """

    cities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    unknown_items: bool = False
    k_core: int = 1
    users: int | None = None
    seed: int = 0
    ties: Ties = "item"
    min_interactions: int = MIN_INTERACTIONS

    def __post_init__(self) -> None:
        if self.min_interactions < 2:
            raise InputError("a user needs 2 interactions to be split, a test and a validation")

    def wants(self, item: Item) -> bool:
        """Whether an item is of the cities and categories."""
        city = str((item.model_extra or {}).get("city", ""))
        return _one_of([city], self.cities) and _one_of(item.categories, self.categories)


def _one_of(found: Sequence[str], wanted: Sequence[str]) -> bool:
    names = {one.strip().casefold() for one in wanted}
    return not names or any(one.casefold() in names for one in found)


@dataclass
class PrepareReport:
    """Lines written, by file, and what was left out, by reason."""

    written: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def prepare(
    form: Format,
    reviews: Sequence[Source],
    items: Sequence[Source],
    output: Path,
    refusals: Refusals,
    *,
    selection: Selection | None = None,
    parquet: bool = False,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Turn a data set into the artifacts in `output`, which appear when all is done.

    The same sources give the same bytes. Rows that make no record are refused. `parquet` writes
    each file in that form too. Rows that are read are the steps of `progress`. Raises InputError
    where a source cannot be read to its end, or where nothing is left.
    """
    selection = selection or Selection()
    if parquet:
        tables.check_installed()
    report = PrepareReport()
    with output_folder(output, _replace_files) as folder, _Store() as store:
        store.add_items(_items(form, items, refusals, progress), selection, report)
        store.add_reviews(_reviews(form, reviews, refusals, progress))
        filtered = bool(selection.cities or selection.categories)
        store.relate(not filtered and (selection.unknown_items or not items), report)
        store.select(selection, report)
        if not store.count("kept"):
            raise InputError(_nothing_left(refusals, report))
        artifacts = {
            ITEMS: store.items(),
            REVIEWS: store.reviews(),
            SPLITS: store.splits(selection),
        }
        for name, lines in artifacts.items():
            with written_whole(folder / name) as write:
                for line in lines:
                    write(line)
                    report.written[name] += 1
            if parquet:
                tables.write_parquet(folder / name, (folder / name).with_suffix(".parquet"))
    return report


def format_named(name: str, columns: Sequence[str] = ()) -> Format:
    """A format by its name; `columns`, for "plain" alone, are texts like "item_id=sku".

    Raises InputError for an unknown name, field or form.
    """
    if name not in FORMATS:
        raise InputError(f"there is no data set format {name!r}; choose {', '.join(FORMATS)}")
    if not columns:
        return FORMATS[name]
    if name != "plain":
        raise InputError(f"columns can be named for the format plain, not for {name}")
    pairs = [one.partition("=") for one in columns]
    for (ours, equals, theirs), given in zip(pairs, columns, strict=True):
        if not (ours and equals and theirs):
            raise InputError(f"{given!r} names no column; write our field, =, theirs: item_id=sku")
    return plain({ours: theirs for ours, _, theirs in pairs})


def _nothing_left(refusals: Refusals, report: PrepareReport) -> str:
    why = [f"{count} {reason}" for reason, count in (refusals.counts + report.left_out).items()]
    first = f"; the first refusal: {refusals.sentences[0]}" if refusals.sentences else ""
    return f"no interaction is left, nothing was written: {', '.join(why) or 'no rows'}{first}"


# -- reading ----------------------------------------------------------------------------------


def _items(
    form: Format, sources: Sequence[Source], refusals: Refusals, progress: Progress
) -> Iterator[Item]:
    for where, row in _rows(form, sources, refusals, progress):
        try:
            yield Item.model_validate(storable(form.item(row)))
        except ValueError as error:
            refusals.add(f"{where}: {_sentence(error)}", "broken item")


def _reviews(
    form: Format, sources: Sequence[Source], refusals: Refusals, progress: Progress
) -> Iterator[Review]:
    for where, row in _rows(form, sources, refusals, progress):
        try:
            yield Review.model_validate(form.review(row))
        except ValueError as error:
            refusals.add(f"{where}: {_sentence(error)}", "broken review")


def _sentence(error: ValueError) -> str:
    return validation_sentence(error) if isinstance(error, ValidationError) else str(error)


def _rows(
    form: Format, sources: Sequence[Source], refusals: Refusals, progress: Progress
) -> Iterator[tuple[str, Row]]:
    unreported = 0
    for source in sources:
        progress.start(f"reading {source.name}" if isinstance(source, Path) else "reading rows")
        for where, row in read_rows(source, refusals, python_literals=form.python_literals):
            unreported += 1
            if unreported == _BATCH:
                progress.advance(unreported)
                unreported = 0
            yield where, row
    progress.advance(unreported)


# -- sorting and choosing ---------------------------------------------------------------------


class _Store:
    """The data set in a private database on disk; a context manager."""

    def __init__(self) -> None:
        # No file name: SQLite makes a file that no other process sees and no kill leaves behind.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        self._run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._run("BEGIN")

    def __enter__(self) -> _Store:
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

    def add_items(self, items: Iterable[Item], selection: Selection, report: PrepareReport) -> None:
        """Store the items; of a repeated one, the first."""
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
        _note(report, REPEATED_ITEM, seen - self.count("item"))

    def add_reviews(self, reviews: Iterable[Review]) -> None:
        """Store the reviews, repeated ones too; texts apart, for most passes do without."""
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

    def relate(self, unknown_items: bool, report: PrepareReport) -> None:
        """Number users and items, and keep each pair's newest review of a wanted item."""
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
        _note(report, UNKNOWN_ITEM, unwanted.get(1, 0))
        _note(report, OTHER_ITEM, unwanted.get(0, 0))
        repeats = self.count("review") - sum(unwanted.values()) - self.count("kept")
        _note(report, REPEATED_REVIEW, repeats)

    def select(self, selection: Selection, report: PrepareReport) -> None:
        """Drop what is outside the k-core and the sample; count the items that are left over."""
        if selection.k_core > 1 or selection.users is not None:
            self._filter(selection, report)
        unused = self._run(
            "SELECT count(*) FROM item"
            " WHERE record IS NOT NULL AND number NOT IN (SELECT item FROM kept)"
        )
        _note(report, ITEM_UNUSED, unused.fetchone()[0])

    def _filter(self, selection: Selection, report: PrepareReport) -> None:
        pairs = np.fromiter(
            self._run("SELECT line, user, item FROM kept ORDER BY line"),
            dtype=[("line", np.int64), ("user", np.int32), ("item", np.int32)],
        )
        left = pairs[k_core(pairs["user"], pairs["item"], selection.k_core)]
        _note(report, NOT_IN_CORE, len(pairs) - len(left))
        if selection.users is not None:
            ids = self._run("SELECT user_id FROM user ORDER BY number")
            lots = draws((user_id for (user_id,) in ids), selection.seed)
            sample = left[sample_users(left["user"] - 1, lots, selection.users)]
            _note(report, NOT_SAMPLED, len(left) - len(sample))
            left = sample[k_core(sample["user"], sample["item"], selection.k_core)]
            _note(report, NOT_IN_CORE, len(sample) - len(left))
        dropped = np.setdiff1d(pairs["line"], left["line"], assume_unique=True)
        self._database.executemany(
            "DELETE FROM kept WHERE line = ?", ((int(line),) for line in dropped)
        )

    def items(self) -> Iterator[str]:
        """The lines of items.jsonl, by id; an item without metadata has only that."""
        for item_id, record in self._run(
            "SELECT item_id, record FROM item WHERE number IN (SELECT item FROM kept)"
            " ORDER BY item_id"
        ):
            yield record or _json(Item(item_id=item_id).model_dump())

    def reviews(self) -> Iterator[str]:
        """The lines of reviews.jsonl, by time, user and item."""
        for row in self._run(
            f"SELECT {', '.join(Review.model_fields)}"  # noqa: S608 - our own names
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


def _note(report: PrepareReport, reason: str, count: int) -> None:
    if count:
        report.left_out[reason] += count


def _json(record: Row) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def _replace_files(written: Path, output: Path) -> None:
    """Replace the artifacts of a folder; reviews.jsonl is missing until all others are there."""
    (output / REVIEWS).unlink(missing_ok=True)
    for name in (ITEMS, SPLITS, REVIEWS):
        for file in (Path(name).with_suffix(".parquet").name, name):
            if (written / file).exists():
                (written / file).replace(output / file)
            else:
                (output / file).unlink(missing_ok=True)
