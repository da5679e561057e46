"""Users beside the embedded index: one SQLite file, `<index>-users.sqlite`.

SQLite and not a second Qdrant Edge shard: nobody searches users by nearness, they are looked up;
an interaction and its job must be written together or not at all; and Qdrant Edge holds the GIL in
every call. The user vector is made from the newest rows at each read, some 0.1 ms: there is
nothing that could be out of date. The vectors of all versions of the index are in one table.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import IndexUnavailableError, StorageFullError
from p4r_qdrant.settings import HistorySettings, QdrantSettings, Settings
from p4r_qdrant.users.records import Job, StoredInteraction
from p4r_qdrant.users.store import UserStore

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
_WITH_VECTORS = f"""
SELECT {_FIELDS}, text, vector FROM interactions
LEFT JOIN (SELECT * FROM vectors WHERE fingerprint = ?) USING (user_id, timestamp, item_id)
"""  # noqa: S608
PAGE = 500


class EmbeddedUsers(UserStore):
    """One file, one connection, one lock; a commit is on the disk."""

    def __init__(self, settings: Settings, history: HistorySettings, fingerprint: str) -> None:
        super().__init__(history)
        self._fingerprint = fingerprint
        self._path = file_of(settings.qdrant)
        self._lock = threading.RLock()
        with self._translated():
            self._db = sqlite3.connect(self._path, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.executescript(_SCHEMA)

    # -- writing ------------------------------------------------------------------------------

    def enqueue(self, job: Job) -> None:
        """See UserStore."""
        with self._writing():
            self._insert_job(job)

    def finish(self, job: Job) -> None:
        """See UserStore."""
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE key = ? AND body = ?", (job.key, _dumped(job.body)))

    def _erase(self, user_id: str) -> int:
        with self._writing() as db:
            count = db.execute("DELETE FROM interactions WHERE user_id = ?", (user_id,)).rowcount
            db.execute("DELETE FROM vectors WHERE user_id = ?", (user_id,))
            db.execute("DELETE FROM jobs WHERE user_id = ?", (user_id,))
        with self._lock, self._translated():  # nor is anything left in the log
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def _item_jobs(self) -> Iterator[Job]:
        rows = self._read(f"SELECT {_JOB} FROM jobs WHERE kind = 'item'", ())  # noqa: S608
        return map(_job, rows)

    def _put(self, one: StoredInteraction, job: Job | None) -> None:
        with self._writing() as db:
            db.execute(
                f"INSERT OR REPLACE INTO interactions ({_FIELDS}) VALUES ({','.join('?' * 9)})",  # noqa: S608
                (
                    *(one.user_id, one.item_id, one.timestamp, one.rating, one.title, one.summary),
                    *(one.review_title, one.review_text, _aspects(one)),
                ),
            )
            if job is not None:
                self._insert_job(job)

    def _amend(self, one: StoredInteraction) -> None:
        with self._writing() as db:
            db.execute(
                f"UPDATE interactions SET aspects = ? WHERE {_PLACE}",  # noqa: S608
                (_aspects(one), *_place(one)),
            )

    def _put_vectors(self, some: Sequence[StoredInteraction]) -> None:
        rows = [
            (*_place(one), self._fingerprint, one.text_hash, one.vector.astype("<f4").tobytes())
            for one in some
            if one.vector is not None
        ]
        if not rows:
            return
        with self._writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vectors "
                "(user_id, timestamp, item_id, fingerprint, text, vector) VALUES (?,?,?,?,?,?)",
                rows,
            )

    def _amend_job(self, job: Job) -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET attempts = ?, not_before = ?, problem = ?, failed = ? "
                "WHERE key = ?",
                (job.attempts, job.not_before, job.problem, job.failed, job.key),
            )

    def _put_user(self, user_id: str, vector: UserVector | None) -> None:
        pass  # made at each read

    def _forget(self, user_id: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM vectors WHERE user_id = ?", (user_id,))

    def _forget_elsewhere(self, user_id: str) -> None:
        pass

    def _insert_job(self, job: Job) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO jobs ({_JOB}) VALUES (?,?,?,?,?,?,?,?)",  # noqa: S608
            (
                *(job.key, job.kind, job.user_id, _dumped(job.body), job.attempts),
                *(job.not_before, job.problem, job.failed),
            ),
        )

    # -- reading ------------------------------------------------------------------------------

    def vectors(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """See UserStore."""
        found = {user_id: self.vector_of(self.recent(user_id)) for user_id in user_ids}
        return {user_id: vector for user_id, vector in found.items() if vector is not None}

    def user_ids(self) -> Iterator[str]:
        """See UserStore."""
        last = ""
        while True:
            rows = self._read(
                "SELECT DISTINCT user_id FROM interactions WHERE user_id > ? "
                "ORDER BY user_id LIMIT ?",
                (last, PAGE),
            )
            yield from (row[0] for row in rows)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def get(self, like: StoredInteraction) -> StoredInteraction | None:
        """See UserStore."""
        found = self._read(f"{_WITH_VECTORS} WHERE {_PLACE}", (self._fingerprint, *_place(like)))
        return _stored(found[0]) if found else None

    def recent(self, user_id: str) -> list[StoredInteraction]:
        """See UserStore."""
        found = self._read(
            f"{_WITH_VECTORS} WHERE user_id = ? ORDER BY timestamp DESC, item_id DESC LIMIT ?",
            (self._fingerprint, user_id, self.length),
        )
        return [_stored(row) for row in found]

    def interactions(self, user_id: str) -> Iterator[StoredInteraction]:
        """See UserStore."""
        last: tuple[int, str] = (2**63 - 1, chr(0x10FFFF))
        while True:
            rows = self._read(
                f"SELECT {_FIELDS}, NULL, NULL FROM interactions "  # noqa: S608
                "WHERE user_id = ? AND (timestamp, item_id) < (?, ?) "
                "ORDER BY timestamp DESC, item_id DESC LIMIT ?",
                (user_id, *last, PAGE),
            )
            for row in rows:
                yield _stored(row)
            if len(rows) < PAGE:
                return
            last = (rows[-1][2], rows[-1][1])

    def seen(self, user_id: str) -> set[str]:
        """See UserStore."""
        rows = self._read("SELECT item_id FROM interactions WHERE user_id = ?", (user_id,))
        return {row[0] for row in rows}

    def jobs(self, limit: int) -> list[Job]:
        """See UserStore."""
        rows = self._read(
            f"SELECT {_JOB} FROM jobs WHERE failed = 0 AND not_before <= ? "  # noqa: S608
            "ORDER BY number LIMIT ?",
            (time.time(), limit),
        )
        return [_job(row) for row in rows]

    def failed_jobs(self, limit: int) -> list[Job]:
        """See UserStore."""
        rows = self._read(
            f"SELECT {_JOB} FROM jobs WHERE failed = 1 ORDER BY number DESC LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [_job(row) for row in rows]

    def job_counts(self) -> dict[str, int]:
        """See UserStore."""
        rows = self._read("SELECT failed, COUNT(*) FROM jobs GROUP BY failed", ())
        counts = {bool(failed): count for failed, count in rows}
        return {"waiting": counts.get(False, 0), "failed": counts.get(True, 0)}

    def close(self) -> None:
        """See UserStore."""
        with self._lock:
            self._db.close()

    def _read(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock, self._translated():
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._lock, self._translated(), self._db:
            yield self._db

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "full" in str(error):
                raise StorageFullError(f"no space left to write {self._path}; free some") from None
            raise IndexUnavailableError(f"{self._path} cannot be used: {error}") from None


def file_of(settings: QdrantSettings) -> Path:
    """Where users are kept beside an embedded index."""
    return settings.path.with_name(f"{settings.path.name}-users.sqlite")


def drop_vectors(settings: QdrantSettings, fingerprint: str) -> None:
    """Delete the user vectors that one encoder made. Raises IndexUnavailableError."""
    path = file_of(settings)
    if path.exists():
        try:
            with closing(sqlite3.connect(path, timeout=30)) as db, db:
                db.execute("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint,))
        except sqlite3.Error as error:
            raise IndexUnavailableError(f"{path} cannot be used ({error})") from None


def _place(one: StoredInteraction) -> tuple[str, int, str]:
    return one.user_id, one.timestamp, one.item_id


def _aspects(one: StoredInteraction) -> str | None:
    return None if one.aspects is None else _dumped(one.aspects)


def _stored(row: Sequence[Any]) -> StoredInteraction:
    *told, aspects, text_hash, vector = row
    columns: list[Any] = [*told, None if aspects is None else json.loads(aspects)]
    one = StoredInteraction(*columns)
    is_of_this = vector is not None and text_hash == one.text_hash
    return one.encoded(np.frombuffer(vector, dtype="<f4")) if is_of_this else one


def _job(row: Sequence[Any]) -> Job:
    key, kind, user_id, body, attempts, not_before, problem, failed = row
    return Job(key, kind, user_id, json.loads(body), attempts, not_before, problem, bool(failed))


def _dumped(value: Any) -> str:
    return json.dumps(dict(value), ensure_ascii=False, sort_keys=True)
