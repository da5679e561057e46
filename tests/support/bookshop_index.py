"""The bookshop's index by the bundled model, made once for all workers; copies of an index."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import warm
from tests.support.paths import BOOKSHOP, ROOT

COMMAND = ["index", "--artifacts", str(BOOKSHOP), "--domain", "books"]
ENVIRONMENT = {
    "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2",
    "PATH": os.environ["PATH"],
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


def copy_bookshop_index(folder: Path) -> None:
    """Put the index into a folder, where `p4r` looks for it.

    Where the bookshop is indexed there again, nothing is left to encode.
    """
    made = warm.Shared.folder / "bookshop"
    with (warm.Shared.folder / "bookshop.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            making = Path(tempfile.mkdtemp(dir=warm.Shared.folder))
            program = [sys.executable, "-c", "from indexer.cli import main; main()"]
            warm.run([*program, *COMMAND], cwd=making, env=ENVIRONMENT, check=True)
            making.rename(made)
    copy_index(made / "p4r-index", folder / "p4r-index")


def copy_index(index: Path, copy: Path) -> None:
    """Copy an embedded index, which is mostly holes, without filling them."""
    subprocess.run(["cp", "-R", index, copy], check=True)
