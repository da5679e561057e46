"""The import graph of both packages: its layers and its cycles.

    python -m tests.support.import_graph            # between packages, with their layers
    python -m tests.support.import_graph --modules  # between modules

Imports inside functions count, and so does `import_module("...")` with a constant name. Imports
under `if TYPE_CHECKING:` do not count. A package's `__init__` counts only where a name is imported
from it, not where Python runs it on the way to a submodule.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("p4r_qdrant", "indexer")

LAYERS = (
    ("p4r_qdrant.file_lock", "p4r_qdrant.closing"),
    (
        *("p4r_qdrant.records", "p4r_qdrant.errors", "p4r_qdrant.resources", "p4r_qdrant.arrays"),
        *("p4r_qdrant.artifact_names", "p4r_qdrant.spreadsheets"),
        *("p4r_qdrant.whole_files", "p4r_qdrant.retry_after", "p4r_qdrant.validation"),
    ),
    ("p4r_qdrant.settings", "p4r_qdrant.texts", "p4r_qdrant.templating"),
    ("p4r_qdrant.moderation",),
    ("p4r_qdrant.encoder",),
    ("p4r_qdrant.index",),
    ("p4r_qdrant.users",),
    ("p4r_qdrant.live",),
    ("p4r_qdrant.rerank",),
    ("p4r_qdrant.schemas",),
    ("p4r_qdrant.client",),
    ("p4r_qdrant.service", "p4r_qdrant.frameworks"),
)
"""Lowest layer first. A module imports modules of its own part and of the layers below it."""

THIRD_PARTIES = {
    "openai": ("indexer.llm",),
    "tenacity": ("indexer.llm",),
    "xllamacpp": ("indexer.demo.local_llm",),
}
"""Libraries that only these parts may import."""

ONLY_FROM = {
    "indexer.terminal": ("indexer.terminal", "indexer.cli", "indexer.demo"),
    "indexer.cli": ("indexer.cli", "indexer.__main__"),
}
"""Parts that only these parts may import."""


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """One import statement: `source` imports `target` in `line`. Both are module names."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def module_paths(root: Path) -> dict[str, Path]:
    """All modules of both packages by their name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of each import in a file; the name is empty in `import module`."""
    for node in _running(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are written in full"
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value), ""


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without what is imported for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def graph(root: Path = ROOT) -> list[Import]:
    """Every import by a module of both packages, of other packages too."""
    paths = module_paths(root)
    found = set()
    for source, path in paths.items():
        for line, module, name in imported(path):
            target = f"{module}.{name}" if f"{module}.{name}" in paths else module
            if target != source:
                found.add(Import(source, line, target))
    return sorted(found)


def cycles(imports: Iterable[Import]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan)."""
    targets: dict[str, set[str]] = defaultdict(set)
    for one in imports:
        targets[one.source].add(one.target)
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for target in sorted(targets[module]):
            if target not in index:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], index[target])
        if lowest[module] == index[module]:
            start = stack.index(module)
            group, stack[start:] = stack[start:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(targets):
        if module not in index:
            visit(module)
    return found


def breaches(imports: Iterable[Import]) -> list[str]:
    """The imports that break a rule, with the rule."""
    return [f"{one}: {rule}" for one in imports if (rule := _broken_rule(one))]


def _broken_rule(one: Import) -> str:
    if any(_within(one.target, part) for part in ("tests", "benchmarks", "devtools")):
        return "the packages never import tests, benchmarks or devtools"
    if _within(one.source, "p4r_qdrant") and _within(one.target, "indexer"):
        return "p4r_qdrant never imports indexer"
    source, target = layer(one.source), layer(one.target)
    if source and target and (target > source or (target == source and _is_apart(one))):
        return "that is not in a lower layer"
    for part, allowed in {**ONLY_FROM, **THIRD_PARTIES}.items():
        if _within(one.target, part) and not any(_within(one.source, by) for by in allowed):
            return f"only {', '.join(allowed)} may"
    return ""


def layer(module: str) -> int:
    """The number of a module's layer, from 1; 0: it is in no layer."""
    return next((n for n, parts in enumerate(LAYERS, 1) if _part(module, parts)), 0)


def _is_apart(one: Import) -> bool:
    """Whether source and target are different parts of one layer, such as service and client."""
    parts = LAYERS[layer(one.source) - 1]
    return _part(one.source, parts) != _part(one.target, parts)


def _part(module: str, parts: Iterable[str]) -> str:
    return next((part for part in parts if _within(module, part)), "")


def _within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def report(imports: list[Import], depth: int) -> Iterator[str]:
    """Lines that say which parts import which; a part is the first `depth` words of a module."""
    parts: dict[str, set[str]] = defaultdict(set)
    for one in imports:
        source, target = (".".join(n.split(".")[:depth]) for n in (one.source, one.target))
        if source != target and target.split(".")[0] in PACKAGES:
            parts[source].add(target)
    for part, targets in sorted(parts.items(), key=lambda entry: (layer(entry[0]) or 99, entry[0])):
        yield f"{layer(part) or '-':>2} {part} -> {', '.join(sorted(targets))}"


def main() -> int:
    """Print the graph; exit code 1 if there is a cycle or a breach of the rules."""
    parser = argparse.ArgumentParser(description="Print the import graph of both packages.")
    parser.add_argument("--modules", action="store_true", help="every module, not only packages")
    imports = graph()
    problems = breaches(imports) + [f"cycle: {', '.join(group)}" for group in cycles(imports)]
    lines = report(imports, depth=9 if parser.parse_args().modules else 2)
    sys.stdout.writelines(
        f"{line}\n" for line in (*lines, *problems, f"{len(problems)} breaches and cycles")
    )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
