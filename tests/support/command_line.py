"""Runs `p4r` in this process or in one of its own."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from indexer import cli
from tests.support import warm
from tests.support.paths import BOOKSHOP, ROOT

CANDIDATES = str(BOOKSHOP / "candidates.jsonl")
RERANK = ("rerank", "--artifacts", str(BOOKSHOP), "--candidates", CANDIDATES)
ABSENT = ("openai", "tenacity", "peft", "sentence_transformers", "torch", "transformers")
WITHOUT = f"for name in {ABSENT!r}: sys.modules[name] = None"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that says what went wrong."""
        assert "Traceback" not in self.err + self.out
        [line] = [line for line in self.err.splitlines() if line.startswith("p4r: ")]
        return line.removeprefix("p4r: ")


Run = Callable[..., Result]


def in_process(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> Result:
    patch.setattr(sys, "argv", ["p4r", *arguments])
    handlers = [*logging.root.handlers]
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    logging.root.handlers[:] = handlers  # one of the service would write to what is captured here
    printed = capsys.readouterr()
    return Result(int(leaving.value.code or 0), printed.out, printed.err)


def spawn(cwd: Path, *arguments: str | bytes, before: str = "", **options: Any) -> Any:
    """The command in another process; `before` is Python that runs first."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "P4R_"}
    environment |= {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    environment |= options.pop("environment", {})
    code = f"import sys; sys.argv[0] = 'p4r'\n{before}\nfrom indexer.cli import main; main()"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [sys.executable, "-c", code, *arguments]
    # Missing packages and closed streams are met by a new interpreter only.
    new = before == WITHOUT or "preexec_fn" in options
    start = subprocess if new else warm
    return start.Popen(command, env=environment, cwd=cwd, **options)


def finished(process: Any) -> Result:
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, (out or b"").decode(), (err or b"").decode())
