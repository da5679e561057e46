"""Who may import whom, and what an import may cost."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("p4r_qdrant", "indexer")
LLM_PACKAGES = {"openai", "tenacity"}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, in functions too, and of import_module("...")."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are written in full"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def violations(root: Path) -> list[str]:
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            for line, module in imported(path):
                top = module.partition(".")[0]
                online = package == "p4r_qdrant"
                if (online and top == "indexer") or top in ("tests", "benchmarks"):
                    found.append(f"{place}:{line}: {module}")
                if top == "xllamacpp" and place != "indexer/demo/local_llm.py":
                    found.append(f"{place}:{line}: {module}")
                if top in LLM_PACKAGES and not place.startswith("indexer/llm/"):
                    found.append(f"{place}:{line}: {module}")
    return found


def test_the_rules_hold() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("p4r_qdrant/index/index.py", "import indexer.cli"),
        ("p4r_qdrant/new.py", "def f():\n    from indexer import artifacts"),
        ("p4r_qdrant/new.py", "import importlib\nimportlib.import_module('indexer')"),
        ("p4r_qdrant/llm.py", "import openai"),
        ("p4r_qdrant/new.py", "from tenacity import retry"),
        ("indexer/updates/worker.py", "from openai.types import X"),
        ("indexer/indexing/publish.py", "import os, tenacity"),
        ("indexer/llm.py", "import openai"),
        ("indexer/demo/raw_reviews.py", "import xllamacpp"),
        ("indexer/indexing/publish.py", "from tests.support.oracle import Catalogue"),
    ],
)
def test_a_breach_is_found(place: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert len(violations(tmp_path)) == 1
    assert violations(tmp_path)[0].startswith(f"{place}:")


def test_the_llm_package_may(tmp_path: Path) -> None:
    (tmp_path / "indexer" / "llm").mkdir(parents=True)
    (tmp_path / "indexer" / "llm" / "wire.py").write_text("import openai\nimport tenacity")
    assert violations(tmp_path) == []


HEAVY = {
    *("torch", "sentence_transformers", "transformers"),
    *("qdrant_client", "qdrant_edge", "grpc", "xllamacpp"),
}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import p4r_qdrant", {*HEAVY, "numpy", "pydantic", "indexer"}),
        ("import indexer.cli", {*HEAVY, "numpy"}),
        ("from p4r_qdrant import Settings, Interaction", {*HEAVY, "numpy"}),
        ("from p4r_qdrant import PersonaReranker, PersonaEncoder, open_index", HEAVY),
        ("import indexer.terminal.console, indexer.indexing.publish, indexer.reranking", HEAVY),
        ("import indexer.evaluation.evaluate", {*HEAVY, "scipy", "implicit", "matplotlib"}),
        ("import p4r_qdrant.index.edge.engine", {"torch", "qdrant_client", "grpc"}),
    ],
)
def test_an_import_is_cheap(statement: str, unwanted: set[str]) -> None:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(json.loads(run.stdout)) & unwanted == set()


def test_every_public_name_is_there() -> None:
    import p4r_qdrant

    for name in p4r_qdrant.__all__:
        assert getattr(p4r_qdrant, name).__name__ == name
        assert name in dir(p4r_qdrant)
    with pytest.raises(AttributeError, match="no attribute 'Rerankers'"):
        p4r_qdrant.Rerankers  # noqa: B018
