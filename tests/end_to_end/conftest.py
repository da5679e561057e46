"""`p4r` in this process, and `p4r reason` with a scripted LLM."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Result, Run, clean, in_process
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP
from tests.support.reasoning import Reason
from tests.support.reasoning import p4r as run_p4r
from tests.support.scripted_llm import ScriptedLLM


@pytest.fixture
def p4r(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in this process, in an empty folder."""
    clean(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, **environment: str) -> Result:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return in_process(patch, capsys, arguments)

    return run


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM(obliging) as server:
        yield server


@pytest.fixture
def reason(llm: ScriptedLLM, tmp_path: Path) -> Reason:
    def reason_on(
        *more: str, folder: str = "out", source: Path = BOOKSHOP, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        named = {name: source / f"{name}.jsonl" for name in ("items", "reviews", "splits")}
        options = [text for name, path in named.items() for text in (f"--{name}", str(path))]
        command = ["reason", *options, "--domain", "books", "--artifacts", str(tmp_path / folder)]
        return run_p4r(*command, *more, cwd=tmp_path, **{"P4R_LLM__BASE_URL": llm.url} | settings)

    return reason_on
