"""What each publish of a folder has held: FOLDER/history.sqlite.

Of the catalogue: numbers of items and personas, personas by category and by segment. Of each item
whose personas have changed: hashes of their ids and texts. No words, no users. A publish that was
killed leaves nothing. The newest `KEPT` publishes are kept, and of each item what it was before
them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Persona

KEPT = 50
"""Publishes that are kept."""
AT_ONCE = 500
"""Items of one transaction."""
WAIT_S = 10.0
"""Seconds to wait for another process that writes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS publishes (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, version TEXT NOT NULL,
    items INTEGER NOT NULL, personas INTEGER NOT NULL,
    categories TEXT NOT NULL, segments TEXT NOT NULL DEFAULT '[]');
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT NOT NULL, number INTEGER NOT NULL, personas BLOB NOT NULL,
    PRIMARY KEY (item_id, number)) WITHOUT ROWID;
"""
_HASH = 4
"""Bytes of the hash of a persona's id, and of its texts."""


@dataclass(frozen=True, slots=True)
class SegmentSize:
    """A segment of a publish."""

    id: str
    name: str
    personas: int


@dataclass(frozen=True, slots=True)
class PublishRecord:
    """The catalogue after a publish. at: ISO 8601. categories: personas by category."""

    number: int
    at: str
    version: str
    items: int
    personas: int
    categories: Mapping[str, int] = field(default_factory=dict)
    segments: Sequence[SegmentSize] = ()


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """The personas of an item after a publish, compared with those before it."""

    at: str
    personas: int
    new: int
    changed: int
    gone: int


class History:
    """The history of a folder; close it. Raises InputError where the file cannot be used."""

    def __init__(self, path: Path, *, reading: bool = False) -> None:
        """reading: nothing is written, and the file has to exist."""
        self._path = path
        with self._errors():
            mode = "ro" if reading else "rwc"
            self._file = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=WAIT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            if not reading:
                # A journal that stays, so that whoever copies the folder misses no file.
                self._file.execute("PRAGMA journal_mode = TRUNCATE")
                self._file.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record a publish; without `Recording.finish` in the block, nothing stays of it."""
        with self._errors():
            self._file.execute(
                "DELETE FROM items WHERE number NOT IN (SELECT number FROM publishes)"
            )
            own = Recording(self._file, self._following(), self._errors)
        try:
            yield own
        finally:
            with self._errors():
                own.end()

    def note_segments(self, record: PublishRecord) -> None:
        """Note the segments of a version: with its publish, or as a record of their own.

        record: the version as it is now; its number is not read.
        """
        segments = json.dumps([[one.id, one.name, one.personas] for one in record.segments])
        with self._errors():
            last = self._file.execute(
                "SELECT number, version FROM publishes ORDER BY number DESC LIMIT 1"
            ).fetchone()
            if last is not None and last[1] == record.version:
                self._file.execute(
                    "UPDATE publishes SET segments = ? WHERE number = ?", (segments, last[0])
                )
                return
            self._file.execute(
                "INSERT INTO publishes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._following(), *_values(record), segments),
            )

    def _following(self) -> int:
        [number] = self._file.execute("SELECT COALESCE(MAX(number), 0) FROM publishes").fetchone()
        return int(number) + 1

    # -- reading ------------------------------------------------------------------------------

    def publishes(self) -> list[PublishRecord]:
        """What the publishes have held, the oldest first."""
        with self._errors():
            rows = self._file.execute("SELECT * FROM publishes ORDER BY number").fetchall()
            return [_record(row) for row in rows]

    def of_item(self, item_id: str) -> list[ItemRecord]:
        """The publishes that changed the personas of an item, the oldest first."""
        with self._errors():
            rows = self._file.execute(
                "SELECT at, items.personas FROM items JOIN publishes USING (number)"
                " WHERE item_id = ? ORDER BY number",
                (item_id,),
            ).fetchall()
        found, before = list[ItemRecord](), dict[bytes, bytes]()
        for at, content in rows:
            now = _unpacked(content)
            common = before.keys() & now.keys()
            changed = sum(before[one] != now[one] for one in common)
            found.append(
                ItemRecord(at, len(now), len(now) - len(common), changed, len(before) - len(common))
            )
            before = now
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise InputError(
                f"{self._path} cannot be used ({error}): remove it, and the history of publishes "
                "begins anew"
            ) from None


class Recording:
    """A publish that is being recorded."""

    def __init__(
        self,
        file: sqlite3.Connection,
        number: int,
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._file = file
        self._errors = errors
        self._number = number
        self._is_finished = False
        self._waiting: list[tuple[str, bytes]] = []
        self._changed = 0

    def settle(self, item_id: str, personas: Sequence[Persona]) -> None:
        """Take note of an item that the version holds."""
        self._waiting.append((item_id, _packed(personas)))
        if len(self._waiting) == AT_ONCE:
            with self._errors():
                self._write()

    def _write(self) -> None:
        some, self._waiting = self._waiting, []
        self._file.execute("BEGIN IMMEDIATE")
        for item_id, content in some:
            if self._last(item_id) != content:
                self._put(item_id, content)
        self._file.execute("COMMIT")

    def _last(self, item_id: str) -> bytes:
        row = self._file.execute(
            "SELECT personas FROM items WHERE item_id = ? ORDER BY number DESC LIMIT 1", (item_id,)
        ).fetchone()
        return row[0] if row is not None else b""

    def _put(self, item_id: str, content: bytes) -> None:
        self._changed += 1
        self._file.execute(
            "INSERT OR REPLACE INTO items VALUES (?, ?, ?)", (item_id, self._number, content)
        )

    def finish(self, record: PublishRecord, held: Iterable[str] | None) -> None:
        """Keep the record of the publish; a publish that changed nothing leaves none.

        record: its number is not read. held: the ids of all items that the version holds; None if
        they are not known, and then no item is taken for gone.
        """
        with self._errors():
            self._finish(record, held)

    def _finish(self, record: PublishRecord, held: Iterable[str] | None) -> None:
        self._write()
        file = self._file
        gone = self._gone(held) if held is not None else []
        file.execute("BEGIN IMMEDIATE")
        for item_id in gone:
            self._put(item_id, b"")
        last = file.execute("SELECT version FROM publishes ORDER BY number DESC LIMIT 1").fetchone()
        if self._changed or last != (record.version,):
            file.execute(
                "INSERT INTO publishes VALUES (?, ?, ?, ?, ?, ?, '[]')",
                (self._number, *_values(record)),
            )
            self._prune()
        file.execute("COMMIT")
        self._is_finished = True

    def _gone(self, held: Iterable[str]) -> list[str]:
        """The items that were there before and are no longer."""
        file = self._file
        file.execute("CREATE TEMP TABLE held (item_id TEXT PRIMARY KEY) WITHOUT ROWID")
        file.executemany("INSERT OR IGNORE INTO temp.held VALUES (?)", ((one,) for one in held))
        rows = file.execute(
            "SELECT DISTINCT item_id FROM items WHERE item_id NOT IN (SELECT item_id FROM held)"
        )
        return [item_id for (item_id,) in rows.fetchall() if self._last(item_id)]

    def _prune(self) -> None:
        """Delete the oldest publishes, and what items were before the one before the oldest."""
        oldest = self._number - KEPT + 1
        if oldest <= 1:
            return
        self._file.execute("DELETE FROM publishes WHERE number < ?", (oldest,))
        self._file.execute(
            "UPDATE OR REPLACE items SET number = ? WHERE number < ? AND number ="
            " (SELECT MAX(number) FROM items AS own"
            "  WHERE own.item_id = items.item_id AND own.number <= ?)",
            (oldest, oldest, oldest),
        )
        self._file.execute("DELETE FROM items WHERE number < ?", (oldest,))

    def end(self) -> None:
        """Remove what was written of a publish that was not finished."""
        if self._file.in_transaction:
            self._file.execute("ROLLBACK")
        self._file.execute("DROP TABLE IF EXISTS temp.held")
        if not self._is_finished:
            self._file.execute("DELETE FROM items WHERE number = ?", (self._number,))


def read_history(path: Path) -> History | None:
    """The history in a file, for reading; None if there is none."""
    return History(path, reading=True) if path.is_file() else None


def item_history(path: Path, item_id: str) -> list[ItemRecord]:
    """See `History.of_item`; empty without a file."""
    found = read_history(path)
    if found is None:
        return []
    with closing(found):
        return found.of_item(item_id)


def all_publishes(path: Path) -> list[PublishRecord]:
    """See `History.publishes`; empty without a file."""
    found = read_history(path)
    if found is None:
        return []
    with closing(found):
        return found.publishes()


def _values(record: PublishRecord) -> tuple[Any, ...]:
    categories = json.dumps(dict(record.categories), ensure_ascii=False)
    return record.at, record.version, record.items, record.personas, categories


def _record(row: Sequence[Any]) -> PublishRecord:
    number, at, version, items, personas, categories, segments = row
    sizes = [SegmentSize(str(id_), str(name), int(n)) for id_, name, n in json.loads(segments)]
    return PublishRecord(number, at, version, items, personas, json.loads(categories), sizes)


def _packed(personas: Sequence[Persona]) -> bytes:
    return b"".join(
        _hashed(one.persona_id) + _hashed(one.name, one.description, one.preference_rationale)
        for one in personas
    )


def _hashed(*texts: str) -> bytes:
    words = "\0".join(texts).encode(errors="replace")
    return hashlib.blake2b(words, digest_size=_HASH).digest()


def _unpacked(content: bytes) -> dict[bytes, bytes]:
    """Hash of a persona's id -> hash of its texts."""
    step = 2 * _HASH
    return {
        content[at : at + _HASH]: content[at + _HASH : at + step]
        for at in range(0, len(content), step)
    }
