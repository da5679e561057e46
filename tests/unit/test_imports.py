"""Rules for imports: layers, no cycles, and what an import may cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.import_graph import breaches, cycles, graph, imported, layer, module_paths
from tests.support.paths import ROOT


def test_the_rules_hold() -> None:
    assert breaches(graph()) == []


def test_benchmarks_import_nothing_of_the_tests() -> None:
    for folder in ("benchmarks", "devtools"):
        for path in (ROOT / folder).rglob("*.py"):
            modules = {module.partition(".")[0] for _, module, _ in imported(path)}
            assert "tests" not in modules, path
            assert '"tests.' not in path.read_text(), path


def test_every_module_of_p4r_qdrant_is_in_a_layer() -> None:
    outside = {
        one for one in module_paths(ROOT) if one.startswith("p4r_qdrant.") and not layer(one)
    }
    assert outside <= {"p4r_qdrant.__main__"}


def test_there_is_no_cycle() -> None:
    assert cycles(graph()) == []


def write(root: Path, files: dict[str, str]) -> None:
    for place, code in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)


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
        ("indexer/llms.py", "import openai"),
        ("indexer/demo/raw_reviews.py", "import xllamacpp"),
        ("indexer/indexing/publish.py", "from tests.support.oracle import Catalogue"),
        ("p4r_qdrant/errors.py", "import p4r_qdrant.settings"),
        ("p4r_qdrant/encoder/base.py", "from p4r_qdrant.index.index import PersonaIndex"),
        ("p4r_qdrant/index/edge/versions.py", "def f():\n    import p4r_qdrant.users.sqlite"),
        ("p4r_qdrant/live/following.py", "from p4r_qdrant import rerank"),
        ("p4r_qdrant/service/app.py", "from p4r_qdrant.frameworks.base import Source"),
        ("indexer/indexing/publish.py", "from indexer.terminal.console import table"),
        ("indexer/terminal/console.py", "def f():\n    import indexer.cli"),
        (
            "p4r_qdrant/index/new.py",
            "if TYPE_CHECKING:\n    import torch\nelse:\n    import p4r_qdrant.live.pair",
        ),
    ],
)
def test_a_breach_is_found(place: str, code: str, tmp_path: Path) -> None:
    write(tmp_path, {place: code, "p4r_qdrant/rerank/__init__.py": ""})
    (found,) = breaches(graph(tmp_path))
    assert found.startswith(f"{place.removesuffix('.py').replace('/', '.')}:")


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("indexer/llm/wire.py", "import openai\nimport tenacity"),
        ("indexer/demo/local_llm.py", "import xllamacpp"),
        ("indexer/cli/index.py", "from indexer.terminal.console import table"),
        ("p4r_qdrant/users/versions.py", "import p4r_qdrant.index.versions, p4r_qdrant.errors"),
        ("p4r_qdrant/index/index.py", "if TYPE_CHECKING:\n    import p4r_qdrant.users.store"),
    ],
)
def test_these_imports_are_allowed(place: str, code: str, tmp_path: Path) -> None:
    write(tmp_path, {place: code})
    assert breaches(graph(tmp_path)) == []


@pytest.mark.parametrize(
    "back",
    [
        "import p4r_qdrant.index.a",
        "from p4r_qdrant.index import a",
        "from p4r_qdrant.index.a import name",
        "def f():\n    from p4r_qdrant.index.a import name",
        "import importlib\nimportlib.import_module('p4r_qdrant.index.a')",
    ],
)
def test_a_cycle_is_found(back: str, tmp_path: Path) -> None:
    files = {
        "p4r_qdrant/index/a.py": "from p4r_qdrant.index import b",
        "p4r_qdrant/index/b.py": "import p4r_qdrant.index.c",
        "p4r_qdrant/index/c.py": back,
        "p4r_qdrant/index/beside.py": "import p4r_qdrant.index.a",
    }
    write(tmp_path, files)
    assert cycles(graph(tmp_path)) == [[f"p4r_qdrant.index.{name}" for name in "abc"]]


def test_an_import_for_type_checkers_closes_no_cycle(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import indexer.a"
    write(tmp_path, {"indexer/a.py": "import indexer.b", "indexer/b.py": guarded})
    assert cycles(graph(tmp_path)) == []


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
        ("import indexer.terminal.ranking, indexer.indexing.publish, indexer.reranking", HEAVY),
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
