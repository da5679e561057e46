"""When a stage of an experiment is run again: its inputs, and the code that it depends on."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from indexer.evaluation.experiment import ablations, dependencies, reranked_lines, selection
from indexer.evaluation.experiment.dependencies import ROOT, code_hash
from indexer.evaluation.experiment.stages import Stages, stage_key

STAGES = {"history": selection, "main": reranked_lines, "ablations": ablations}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)


def found(folder: Path, *modules: str) -> set[str]:
    return set(dependencies.dependencies(modules, folder))


def test_imports_are_followed_in_all_their_forms(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "indexer/__init__.py": "",
            "indexer/start.py": "from indexer import direct\nimport os, indexer.plain as p",
            "indexer/direct.py": "def f():\n    from p4r_qdrant.lazy import x",
            "indexer/plain.py": "if True:\n    import numpy",
            "indexer/unused.py": "import indexer.start",
            "p4r_qdrant/__init__.py": "from p4r_qdrant.exported import y",
            "p4r_qdrant/exported.py": "",
            "p4r_qdrant/lazy.py": "from indexer.package.inner import z",
            "indexer/package/__init__.py": "",
            "indexer/package/inner.py": "import indexer.start",
        },
    )
    assert found(tmp_path, "indexer.start") == {
        *("indexer", "indexer.start", "indexer.direct", "indexer.plain"),
        *("p4r_qdrant", "p4r_qdrant.lazy", "indexer.package", "indexer.package.inner"),
    }
    assert "p4r_qdrant.exported" in found(tmp_path, "p4r_qdrant")


def test_imports_for_types_alone_do_not_count(tmp_path: Path) -> None:
    code = (
        "import typing\nif typing.TYPE_CHECKING:\n    import indexer.b\nelse:\n    import indexer.c"
    )
    write(tmp_path, {"indexer/a.py": code, "indexer/b.py": "", "indexer/c.py": ""})
    assert found(tmp_path, "indexer.a") == {"indexer.a", "indexer.c"}
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import indexer.b"
    write(tmp_path, {"indexer/a.py": code})
    assert found(tmp_path, "indexer.a") == {"indexer.a"}


def test_code_counts_and_comments_do_not(tmp_path: Path) -> None:
    write(tmp_path, {"indexer/a.py": "import indexer.b", "indexer/b.py": "x = 1"})
    before = code_hash(["indexer.a"], tmp_path)
    write(tmp_path, {"indexer/b.py": "# one\nx = (\n    1\n)"})
    assert code_hash(["indexer.a"], tmp_path) == before
    write(tmp_path, {"indexer/b.py": "x = 2"})
    assert code_hash(["indexer.a"], tmp_path) != before


def test_the_version_of_a_library_counts_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"indexer/a.py": "import numpy.linalg", "indexer/b.py": ""})
    before = [code_hash([name], tmp_path) for name in ("indexer.a", "indexer.b")]
    monkeypatch.setattr(
        dependencies, "installed_versions", lambda names: dict.fromkeys(names, "0.1")
    )
    after = [code_hash([name], tmp_path) for name in ("indexer.a", "indexer.b")]
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of both packages."""
    for package in dependencies.PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def keys(root: Path) -> dict[str, str]:
    return {name: stage_key([module], ["inputs"], root) for name, module in STAGES.items()}


def test_an_edit_reaches_the_stages_that_use_the_module(copied: Path) -> None:
    before = keys(copied)
    assert before == keys(ROOT)

    def changed_by(edited: str) -> set[str]:
        path = copied / edited
        honest = path.read_text()
        path.write_text(f"{honest}\nedited = True\n")
        after = keys(copied)
        path.write_text(honest)
        return {name for name in before if after[name] != before[name]}

    for path in (copied / "p4r_qdrant" / "service").rglob("*.py"):
        assert changed_by(str(path.relative_to(copied))) == set(), path
    for unused in ("report.py", "figures.py", "run.py", "main_table.py", "environment.py"):
        assert changed_by(f"indexer/evaluation/experiment/{unused}") == set(), unused
    assert changed_by("indexer/evaluation/experiment/learned.py") == {"ablations"}
    assert changed_by("indexer/evaluation/significance.py") == {"ablations"}
    assert changed_by("p4r_qdrant/rerank/fusion.py") == {"main"}
    assert changed_by("p4r_qdrant/index/edge/queries.py") == {"main"}
    for everywhere in ("p4r_qdrant/texts.py", "indexer/evaluation/experiment/scoring.py"):
        assert changed_by(everywhere) == set(STAGES), everywhere


def test_a_stage_is_run_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make() -> list[int]:
        made.append(1)
        return [len(made)]

    uses: list[ModuleType] = [selection]
    assert Stages(tmp_path).result("one", uses, {"a": 1}, make) == [1]
    stages = Stages(tmp_path)
    assert stages.result("one", uses, {"a": 1}, make) == [1]
    assert stages.seconds["one"] >= 0
    assert stages.result("one", uses, {"a": 2}, make) == [2]
    (tmp_path / "one.json").write_text('{"key": ')
    assert Stages(tmp_path).result("one", uses, {"a": 2}, make) == [3]
    monkeypatch.setattr("indexer.evaluation.experiment.stages.code_hash", lambda *_: "other code")
    assert Stages(tmp_path).result("one", uses, {"a": 2}, make) == [4]
