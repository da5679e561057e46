"""Every published format is read by this release: index, users, backup, artifacts and ledger."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexer.artifacts.folder import ArtifactFolder
from indexer.backups.restore import restore
from indexer.cli import app
from indexer.ledger import LEDGER, Ledger
from p4r_qdrant.errors import IndexMismatchError, IndexUnavailableError, InputError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.sqlite import file_of
from tests.support.backups import NEW, contents, made_with
from tests.support.engines import embedded
from tests.support.formats import ANSWER, FORMATS, KEY, as_json, unpack


@pytest.fixture(params=sorted(path.name for path in FORMATS.iterdir()))
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the folder of a published format."""
    unpack(FORMATS / request.param, tmp_path / "published")
    return tmp_path / "published"


def wanted(published: Path) -> dict[str, Any]:
    """What its index holds; metadata that came later are empty."""
    found: dict[str, Any] = json.loads((published / "contents.json").read_text(encoding="utf-8"))
    return found


def test_the_index_and_its_users(published: Path) -> None:
    found = json.loads(as_json(contents(embedded(published / "index"))))
    for name, version in wanted(published)["versions"].items():
        own = found["versions"][name]
        own["metadata"] = {one: own["metadata"][one] for one in version["metadata"]}
    assert found == wanted(published)


def test_the_backup(published: Path, tmp_path: Path) -> None:
    target = embedded(tmp_path / "target")
    restore(target, published / "backup")
    found = json.loads(as_json(contents(target)))
    assert found["interactions"] == wanted(published)["interactions"]
    assert found["jobs"] == wanted(published)["jobs"]
    for name, version in wanted(published)["versions"].items():
        assert found["versions"][name]["points"] == version["points"]
        assert found["versions"][name]["columns"] == version["columns"]


def test_the_artifacts_and_their_ledger(published: Path) -> None:
    checked = CliRunner().invoke(app, ["check", str(published / "artifacts"), "--json"])
    report = json.loads(checked.stdout)
    assert (checked.exit_code, report["broken"]) == (0, 0), report
    with Ledger(published / "artifacts" / LEDGER) as ledger:
        assert ledger.has("summary", KEY)
        assert ledger.get("summary", KEY) == ANSWER


def test_a_newer_index_is_refused(published: Path) -> None:
    path = published / "index" / "version-test" / "manifest.json"
    stored = json.loads(path.read_text())
    stored["metadata"]["format"] = 2
    path.write_text(json.dumps(stored))
    with (
        open_versions(embedded(published / "index")) as versions,
        pytest.raises(IndexMismatchError, match=r"has format 2.*reads format 1; update p4r-qdrant"),
    ):
        versions.open("version-test")


def test_newer_users_are_refused(published: Path) -> None:
    settings = embedded(published / "index")
    with closing(sqlite3.connect(file_of(settings))) as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(IndexUnavailableError, match=r"has format 2.*reads format 1; update p4r"):
        open_store(settings, "version-test", made_with(NEW), settings.history)


def test_newer_artifacts_and_a_newer_ledger_are_refused(published: Path) -> None:
    artifacts = published / "artifacts"
    said = f"{artifacts} has format 2, this release reads format 1; update p4r-qdrant"
    for folder in (artifacts, artifacts / LEDGER):
        (folder / "format.json").write_text('{"format": 2}')
    checked = CliRunner().invoke(app, ["check", str(artifacts)])
    assert isinstance(checked.exception, InputError)
    assert str(checked.exception) == said
    with pytest.raises(InputError, match=r"ledger has format 2.*; update p4r-qdrant"):
        Ledger(artifacts / LEDGER)
    (artifacts / "format.json").write_text("two")
    with pytest.raises(InputError, match=r"format.json cannot be read"):
        ArtifactFolder(artifacts)
    (artifacts / "format.json").write_text('{"format": 1}')
    ArtifactFolder(artifacts)
