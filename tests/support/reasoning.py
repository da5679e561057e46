"""`p4r` in a process of its own, and what `p4r reason` writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support import warm
from tests.support.injections import WANTED

P4R = [sys.executable, "-W", "error", "-c", "from indexer.cli import main; main()"]
ARTIFACTS = ("summaries", "aspects", "personas", "alignments")
Reason = Callable[..., subprocess.CompletedProcess[str]]


def p4r(*command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]} | settings
    return warm.run([*P4R, *command], env=environment, cwd=cwd, text=True)


def owned(folder: Path) -> list[str]:
    """What of the forty orders got through, into any artifact."""
    texts = "".join(
        (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        for name in ARTIFACTS
        if (folder / f"{name}.jsonl").exists()
    )
    wanted = [f"OWNED {number}" for number in range(20)] + WANTED
    return [one for one in wanted if json.dumps(one, ensure_ascii=False)[1:-1] in texts]
