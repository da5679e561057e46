"""Users in SQLite: long lists of jobs come in pages."""

from contextlib import closing
from pathlib import Path

import pytest

from p4r_qdrant.users import sqlite
from p4r_qdrant.users.records import ItemWork
from p4r_qdrant.users.sqlite import Database, SqliteJobs


def test_jobs_of_items_come_in_pages_while_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "JOBS_A_PAGE", 2)
    with closing(Database(tmp_path / "users.sqlite")) as database:
        jobs = SqliteJobs(database)
        for number in range(7):
            jobs.add(ItemWork(item_id=f"i{number}").job())
        seen = []
        for job in jobs.of_items():
            seen.append(job.body["item_id"])
            jobs.replace_body(job, {**job.body, "reviews": []})
            if len(seen) == 2:
                jobs.finish(ItemWork(item_id="i2").job())
        assert seen == ["i0", "i1", "i3", "i4", "i5", "i6"]
