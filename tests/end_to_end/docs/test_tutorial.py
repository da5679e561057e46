"""The shell lines of the tutorial run as they stand there, up to the first question to an LLM."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.paths import ROOT

pytest.importorskip("openai")

PAGE = ROOT / "docs" / "tutorials" / "your-catalogue.md"


def shell(under: str) -> str:
    """The shell lines below a heading."""
    section = PAGE.read_text("utf-8").partition(f"\n## {under}")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


def run(script: str, folder: Path) -> str:
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    warm.install_p4r(commands)
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={"PATH": f"{commands}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prepare_check_and_count(tmp_path: Path) -> None:
    run(shell("1."), tmp_path)
    assert "users in the split" in run(shell("2."), tmp_path)
    asks = shell("3.").partition("--dry-run")[0] + "--dry-run"
    counted = run(asks.partition("p4r local-llm --port 8090\n")[2], tmp_path)
    assert re.search(r"summaries +6 ", counted)
    assert sorted(path.name for path in (tmp_path / "teashop").glob("*.jsonl")) == [
        "items.jsonl",
        "reviews.jsonl",
        "splits.jsonl",
    ]
