"""The modules of this project that a module imports, found in the sources."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from indexer.evaluation.versions import installed_versions

PACKAGES = ("p4r_qdrant", "indexer")
ROOT = Path(__file__).parents[3]
"""The folder that holds the packages: a checkout, or site-packages."""

_LIBRARIES = {
    "numpy": "numpy",
    "qdrant_edge": "qdrant-edge-py",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
"""Libraries whose version can change a result, by import name. The fingerprint of the encoder
covers those of the encoder."""


@dataclass(frozen=True, slots=True)
class Source:
    """The imports of a file (`from a import b` gives a and a.b), and a hash of its code."""

    imports: frozenset[str]
    digest: str


def code_hash(modules: Iterable[str], root: Path = ROOT) -> str:
    """A hash of modules, of their dependencies, and of the versions of the libraries they use.

    Comments and layout do not count.
    """
    found = dependencies(modules, root)
    imported = {name.partition(".")[0] for one in found.values() for name in one.imports}
    versions = installed_versions(
        package for name, package in _LIBRARIES.items() if name in imported
    )
    content = json.dumps(
        [{name: one.digest for name, one in found.items()}, versions], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()


def dependencies(modules: Iterable[str], root: Path = ROOT) -> dict[str, Source]:
    """These modules and all modules of PACKAGES that they import, directly or not, by name.

    Imports in functions count. Imports under `if TYPE_CHECKING` do not: they never run. The
    package that a module is in counts, but not what the package imports for its other users.
    """
    found: dict[str, Source] = {}
    waiting, seen = list(modules), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (path := _file(name, root)) is not None:
            found[name] = _source(path, path.stat().st_mtime_ns)
            waiting += found[name].imports
    for name in list(found):
        while name := name.rpartition(".")[0]:
            if name not in found and (path := _file(name, root)) is not None:
                found[name] = _source(path, path.stat().st_mtime_ns)
    return found


def _file(name: str, root: Path) -> Path | None:
    """The file of a module of the project; None for anything else."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _source(path: Path, changed_ns: int) -> Source:  # noqa: ARG001 - a changed file is read again
    tree = ast.parse(path.read_bytes(), str(path))
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Source(frozenset(_imports(tree.body)), digest)


def _imports(block: Iterable[ast.AST]) -> Iterator[str]:
    """Those of a block of statements, and of the blocks in them. Expressions have none."""
    for node in block:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.orelse)
        else:
            for inner in ("body", "orelse", "handlers", "finalbody", "cases"):
                yield from _imports(getattr(node, inner, ()))


def _is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))
