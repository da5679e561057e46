"""Users beside the embedded index: one SQLite file, `<index>-users.sqlite`.

SQLite, not a second Qdrant Edge shard: users are looked up by id and never searched by vector; an
interaction and its job must be written together or not at all; and Qdrant Edge holds the GIL in
every call. h_u is made from the newest rows at each read, in some 0.1 ms, so it is never stale.
The vectors of all versions of the index are in one table.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import IndexUnavailableError, StorageFullError
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.contracts import FORMAT, Interactions, Jobs, UserVectors
from p4r_qdrant.users.records import Job, JobCounts, OtherVersion, StoredInteraction
from p4r_qdrant.whole_files import PRIVATE

_SCHEMA = """
CREATE TABLE IF NOT EXISTS interactions (
    user_id TEXT NOT NULL, item_id TEXT NOT NULL, timestamp INTEGER NOT NULL, rating REAL,
    title TEXT NOT NULL, summary TEXT NOT NULL, review_title TEXT NOT NULL,
    review_text TEXT NOT NULL, aspects TEXT,
    PRIMARY KEY (user_id, timestamp, item_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (
    user_id TEXT NOT NULL, timestamp INTEGER NOT NULL, item_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (user_id, timestamp, item_id, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    user_id TEXT NOT NULL, body TEXT NOT NULL, attempts INTEGER NOT NULL, not_before REAL NOT NULL,
    problem TEXT NOT NULL, failed INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_of_users ON jobs (user_id);
"""
_FIELDS = "user_id, item_id, timestamp, rating, title, summary, review_title, review_text, aspects"
_JOB = "key, kind, user_id, body, attempts, not_before, problem, failed"
_PLACE = "user_id = ? AND timestamp = ? AND item_id = ?"
PAGE = 500
JOBS_A_PAGE = 50
"""Jobs about items may hold many reviews."""


class Database:
    """One file, one connection, one lock. What is committed is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with self._translated():
            # Only its owner may read it. SQLite gives its own files beside it the same mode.
            with suppress(OSError):  # SQLite will say what is wrong
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
            self._db = sqlite3.connect(self._path, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            self._check_format()
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def _check_format(self) -> None:
        """Raise IndexUnavailableError for a newer format."""
        [(number,)] = self._db.execute("PRAGMA user_version").fetchall()
        if number > FORMAT:
            self._db.close()
            raise IndexUnavailableError(
                f"{self._path} has format {number}, this release reads format {FORMAT}; update "
                "p4r-qdrant"
            )

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock, self._translated():
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._lock, self._translated(), self._db:
            yield self._db

    def empty_log(self) -> bool:
        """Move the write-ahead log into the file, so that it keeps nothing that was deleted.

        Returns False if another connection still reads it.
        """
        [(is_busy, _, _)] = self.read("PRAGMA wal_checkpoint(TRUNCATE)")
        return not is_busy

    def purge(self) -> list[str]:
        """See `Storage`. The file is written anew, since a page may keep what it held before."""
        with self._lock, self._translated():
            self._db.execute("VACUUM")
        if self.empty_log():
            return []
        return [f"{self._path}-wal holds it until the process that reads it now has ended"]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "full" in str(error):
                raise StorageFullError(f"no space left to write {self._path}; free some") from None
            raise IndexUnavailableError(f"{self._path} cannot be used: {error}") from None

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        with self._lock:
            self._db.close()


class SqliteInteractions(Interactions):
    """See `Interactions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, one: StoredInteraction, job: Job | None) -> None:
        """See `Interactions`."""
        with self._database.writing() as db:
            db.execute(
                f"INSERT OR REPLACE INTO interactions ({_FIELDS}) VALUES ({','.join('?' * 9)})",  # noqa: S608
                _row(one),
            )
            if job is not None:
                _insert_job(db, job)

    def load(self, some: Sequence[StoredInteraction]) -> None:
        """See `Interactions`."""
        with self._database.writing() as db:
            db.executemany(
                f"INSERT OR IGNORE INTO interactions ({_FIELDS}) VALUES ({','.join('?' * 9)})",  # noqa: S608
                map(_row, some),
            )

    def set_aspects(self, one: StoredInteraction) -> None:
        """See `Interactions`."""
        with self._database.writing() as db:
            db.execute(
                f"UPDATE interactions SET aspects = ? WHERE {_PLACE}",  # noqa: S608
                (_aspects(one), *_place(one)),
            )

    def erase(self, user_id: str) -> int:
        """See `Interactions`. The vectors of all versions go in the same transaction."""
        with self._database.writing() as db:
            count = db.execute("DELETE FROM interactions WHERE user_id = ?", (user_id,)).rowcount
            db.execute("DELETE FROM vectors WHERE user_id = ?", (user_id,))
            db.execute("DELETE FROM jobs WHERE user_id = ?", (user_id,))
        self._database.empty_log()
        return count

    def look_up(
        self, like: StoredInteraction, length: int
    ) -> tuple[StoredInteraction | None, list[StoredInteraction]]:
        """See `Interactions`."""
        statement = f"SELECT {_FIELDS} FROM interactions WHERE {_PLACE}"  # noqa: S608
        found = self._database.read(statement, _place(like))
        return _stored(found[0]) if found else None, self.recent(like.user_id, length)

    def read_back(
        self, user_id: str, length: int
    ) -> tuple[list[StoredInteraction], Sequence[OtherVersion]]:
        """See `Interactions`. No version stores h_u."""
        found = self._database.read(
            f"SELECT {_FIELDS} FROM interactions WHERE user_id = ? "  # noqa: S608
            "ORDER BY timestamp DESC, item_id DESC LIMIT ?",
            (user_id, length),
        )
        return [_stored(row) for row in found], ()

    def of(self, user_id: str) -> Iterator[StoredInteraction]:
        """See `Interactions`."""
        last: tuple[int, str] = (2**63 - 1, chr(0x10FFFF))
        while True:
            rows = self._database.read(
                f"SELECT {_FIELDS} FROM interactions "  # noqa: S608
                "WHERE user_id = ? AND (timestamp, item_id) < (?, ?) "
                "ORDER BY timestamp DESC, item_id DESC LIMIT ?",
                (user_id, *last, PAGE),
            )
            for row in rows:
                yield _stored(row)
            if len(rows) < PAGE:
                return
            last = (rows[-1][2], rows[-1][1])

    def items(self, user_id: str, length: int) -> dict[str, str]:
        """See `Interactions`."""
        statement = (
            "SELECT item_id, title FROM interactions WHERE user_id = ? "
            "ORDER BY timestamp DESC, item_id DESC LIMIT ?"
        )
        return dict(self._database.read(statement, (user_id, length)))

    def user_ids(self) -> Iterator[str]:
        """See `Interactions`."""
        last = ""
        while True:
            rows = self._database.read(
                "SELECT DISTINCT user_id FROM interactions WHERE user_id > ? "
                "ORDER BY user_id LIMIT ?",
                (last, PAGE),
            )
            yield from (row[0] for row in rows)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]


class SqliteVectors(UserVectors):
    """See `UserVectors`. Only e_uj is stored."""

    stores_users = False

    def __init__(self, database: Database, fingerprint: str) -> None:
        self._database = database
        self._fingerprint = fingerprint

    def attach(self, some: Sequence[StoredInteraction]) -> list[StoredInteraction]:
        """See `UserVectors`."""
        held: dict[tuple[Any, ...], bytes] = {}
        for user_id in dict.fromkeys(one.user_id for one in some):
            own = [one for one in some if one.user_id == user_id]
            rows = self._database.read(
                "SELECT timestamp, item_id, text, vector FROM vectors WHERE user_id = ? "  # noqa: S608
                f"AND fingerprint = ? AND timestamp IN ({','.join('?' * len(own))})",
                (user_id, self._fingerprint, *(one.timestamp for one in own)),
            )
            held |= {(user_id, *row[:3]): row[3] for row in rows}
        found = (held.get((*_place(one), one.text_hash)) for one in some)
        return [
            one.encoded(None if vector is None else np.frombuffer(vector, dtype="<f4"))
            for one, vector in zip(some, found, strict=True)
        ]

    def put(self, encoded: Sequence[StoredInteraction]) -> None:
        """See `UserVectors`."""
        rows = [
            (*_place(one), self._fingerprint, one.text_hash, one.vector.astype("<f4").tobytes())
            for one in encoded
            if one.vector is not None
        ]
        if not rows:
            return
        with self._database.writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vectors "
                "(user_id, timestamp, item_id, fingerprint, text, vector) VALUES (?,?,?,?,?,?)",
                rows,
            )

    def put_user(
        self, user_id: str, vector: UserVector | None, encoded: Sequence[StoredInteraction] = ()
    ) -> None:
        """See `UserVectors`."""
        del user_id, vector
        self.put(encoded)

    def get(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """See `UserVectors`."""
        del user_ids
        return {}

    def erase(self, user_id: str) -> None:
        """See `UserVectors`."""
        with self._database.writing() as db:
            db.execute("DELETE FROM vectors WHERE user_id = ?", (user_id,))

    def invalidate(self, user_id: str, versions: Sequence[OtherVersion]) -> None:
        """See `UserVectors`. No version stores h_u."""

    def erase_elsewhere(self, user_id: str) -> None:
        """See `UserVectors`. `erase` reaches all versions."""


class SqliteJobs(Jobs):
    """See `Jobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: Job) -> None:
        """See `Jobs`."""
        with self._database.writing() as db:
            _insert_job(db, job)

    def load(self, jobs: Sequence[Job]) -> None:
        """See `Jobs`."""
        with self._database.writing() as db:
            for job in jobs:
                _insert_job(db, job, "INSERT OR IGNORE")

    def finish(self, job: Job) -> None:
        """See `Jobs`."""
        with self._database.writing() as db:
            db.execute("DELETE FROM jobs WHERE key = ? AND body = ?", (job.key, _dumped(job.body)))

    def update(self, job: Job) -> None:
        """See `Jobs`."""
        with self._database.writing() as db:
            db.execute(
                "UPDATE jobs SET attempts = ?, not_before = ?, problem = ?, failed = ? "
                "WHERE key = ?",
                (job.attempts, job.not_before, job.problem, job.failed, job.key),
            )

    def replace_body(self, job: Job, body: Mapping[str, Any]) -> None:
        """See `Jobs`."""
        with self._database.writing() as db:
            db.execute(
                "UPDATE jobs SET body = ? WHERE key = ? AND body = ?",
                (_dumped(body), job.key, _dumped(job.body)),
            )

    def due(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        where = "WHERE failed = 0 AND not_before <= ? ORDER BY number LIMIT ?"
        return self._select(where, time.time(), limit)

    def failed(self, limit: int) -> list[Job]:
        """See `Jobs`."""
        return self._select("WHERE failed = 1 ORDER BY number DESC LIMIT ?", limit)

    def all(self) -> Iterator[Job]:
        """See `Jobs`."""
        return self._streamed("TRUE")

    def of_items(self) -> Iterator[Job]:
        """See `Jobs`."""
        return self._streamed("kind = 'item'")

    def _streamed(self, which: str) -> Iterator[Job]:
        last = 0
        while True:
            rows = self._database.read(
                f"SELECT number, {_JOB} FROM jobs WHERE {which} AND number > ? "  # noqa: S608
                "ORDER BY number LIMIT ?",
                (last, JOBS_A_PAGE),
            )
            yield from (_job(row[1:]) for row in rows)
            if len(rows) < JOBS_A_PAGE:
                return
            last = rows[-1][0]

    def _select(self, where: str, *values: Any) -> list[Job]:
        rows = self._database.read(f"SELECT {_JOB} FROM jobs {where}", values)  # noqa: S608
        return [_job(row) for row in rows]

    def counts(self) -> JobCounts:
        """See `Jobs`."""
        rows = self._database.read("SELECT failed, COUNT(*) FROM jobs GROUP BY failed")
        counts = {bool(failed): count for failed, count in rows}
        return {"waiting": counts.get(False, 0), "failed": counts.get(True, 0)}


def file_of(settings: Settings) -> Path:
    """The file with the users of an embedded index."""
    return settings.folder.with_name(f"{settings.folder.name}-users.sqlite")


def drop_vectors(settings: Settings, fingerprint: str) -> None:
    """Delete the user vectors that one encoder made. Raises IndexUnavailableError."""
    path = file_of(settings)
    if path.exists():
        try:
            with closing(sqlite3.connect(path, timeout=30)) as db, db:
                db.execute("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint,))
        except sqlite3.Error as error:
            raise IndexUnavailableError(f"{path} cannot be used ({error})") from None


def _insert_job(db: sqlite3.Connection, job: Job, insert: str = "INSERT OR REPLACE") -> None:
    db.execute(
        f"{insert} INTO jobs ({_JOB}) VALUES (?,?,?,?,?,?,?,?)",
        (
            *(job.key, job.kind, job.user_id, _dumped(job.body), job.attempts),
            *(job.not_before, job.problem, job.failed),
        ),
    )


def _place(one: StoredInteraction) -> tuple[str, int, str]:
    return one.user_id, one.timestamp, one.item_id


def _row(one: StoredInteraction) -> tuple[Any, ...]:
    return (
        *(one.user_id, one.item_id, one.timestamp, one.rating, one.title, one.summary),
        *(one.review_title, one.review_text, _aspects(one)),
    )


def _aspects(one: StoredInteraction) -> str | None:
    return None if one.aspects is None else _dumped(one.aspects)


def _stored(row: Sequence[Any]) -> StoredInteraction:
    *columns, aspects = row
    fields: list[Any] = [*columns, None if aspects is None else json.loads(aspects)]
    return StoredInteraction(*fields)


def _job(row: Sequence[Any]) -> Job:
    key, kind, user_id, body, attempts, not_before, problem, failed = row
    return Job(key, kind, user_id, json.loads(body), attempts, not_before, problem, bool(failed))


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, sort_keys=True)
