"""A folder for each published format: an index with users, a backup, artifacts and a ledger.

    python -m tests.support.formats NUMBER    # makes tests/data/formats/NUMBER

It is made once, by the release that publishes the format, and never changed: the tests read every
one of them. A new format is a new number here, and a new folder.
"""

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from indexer.backups.backup import backup
from indexer.ledger import LEDGER, Ledger, request_key
from tests.support.backups import contents, fill
from tests.support.engines import embedded
from tests.support.paths import ROOT

FORMATS = ROOT / "tests" / "data" / "formats"
KEY = request_key(template="summary", content={"item": "salt-orchard"}, model="a-model")
ANSWER = {"text": "Three sisters and an orchard — 🎻.", "tokens": 12}


def make(folder: Path) -> None:
    """Make the folder of today's format."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        index = embedded(Path(temporary) / "index")
        fill(index, 6)
        backup(index, folder / "backup")
        (folder / "backup" / ".lock").unlink()
        (folder / "contents.json").write_text(as_json(contents(index)))
        # Qdrant Edge's files are mostly holes, which Python's tarfile only reads.
        left_out = ("--exclude=.lock", "--exclude=.writer")
        packed = folder / "index.tar.xz"
        subprocess.run(
            ["tar", "--sparse", "--sort=name", *left_out, "-cJf", packed, "-C", temporary, "."],
            check=True,
        )
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    for path in (ROOT / "examples" / "bookshop").glob("*.jsonl"):
        (artifacts / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    with Ledger(artifacts / LEDGER) as ledger:
        ledger.put("summary", KEY, ANSWER)
    (artifacts / LEDGER / ".lock").unlink()


def unpack(folder: Path, target: Path) -> None:
    """Unpack the index of a format, and copy the rest."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    with tarfile.open(target / "index.tar.xz") as packed:
        packed.extractall(target, filter="data")


def as_json(held: dict[str, Any]) -> str:
    """`contents` as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, bytes):
            return value.hex()
        return value.tolist() if hasattr(value, "tolist") else value

    return json.dumps(plain(held), ensure_ascii=False, indent=1, sort_keys=True)


if __name__ == "__main__":
    make(FORMATS / sys.argv[1])
