"""Rules for tests: shared helpers are in tests/support, no assertion limits a duration, and a copy
of the bookshop has nothing of other tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import paths
from tests.support.paths import ROOT, copy_bookshop

MODULES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
OF_TESTS = re.compile(r"\btests\.(unit|integration|end_to_end|chaos|conftest)\b")
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}


def reads_a_clock(node: ast.AST) -> bool:
    return any(
        isinstance(one, ast.Call)
        and isinstance(one.func, ast.Attribute)
        and isinstance(one.func.value, ast.Name)
        and (one.func.value.id, one.func.attr) in {("time", clock) for clock in CLOCKS}
        for one in ast.walk(node)
    )


def upper_bounds(code: str) -> Iterator[int]:
    """The lines of assertions that a measured time is less than something."""
    tree = ast.parse(code)
    durations = {
        ast.unparse(target).rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
        if isinstance(node.value.op, ast.Sub) and reads_a_clock(node.value)
        for target in node.targets
    }

    def measures(node: ast.AST) -> bool:
        return reads_a_clock(node) or any(
            isinstance(one, ast.Name | ast.Attribute)
            and ast.unparse(one).rpartition(".")[2] in durations
            for one in ast.walk(node)
        )

    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for compared in ast.walk(node.test):
                if isinstance(compared, ast.Compare):
                    sides = [compared.left, *compared.comparators]
                    for left, operator, right in zip(sides, compared.ops, sides[1:], strict=False):
                        less = isinstance(operator, ast.Lt | ast.LtE) and measures(left)
                        if less or (isinstance(operator, ast.Gt | ast.GtE) and measures(right)):
                            yield node.lineno


def test_no_module_uses_a_test_module() -> None:
    own = Path(__file__)
    users = [
        path
        for path in MODULES
        if path != own and OF_TESTS.search(path.read_text(encoding="utf-8"))
    ]
    assert users == [], "share helpers through tests/support"


def test_no_assertion_limits_a_duration() -> None:
    found = [
        f"{path}:{line}"
        for path in MODULES
        for line in upper_bounds(path.read_text(encoding="utf-8"))
    ]
    assert found == [], (
        "a busy machine fails it: use a fake clock, an event or tests.support.polling"
    )


@pytest.mark.parametrize(
    "assertion",
    [
        "assert time.monotonic() - begin < 5",
        "assert 0 < time.time() - begin <= 5, 'too long'",
        "took = time.perf_counter() - begin\nassert 5 > took",
        "outcome.seconds = time.monotonic() - begin\nassert outcome.ok and outcome.seconds < 3",
        "assert time.monotonic() < deadline",
    ],
)
def test_an_upper_bound_is_found(assertion: str) -> None:
    assert len(list(upper_bounds(assertion))) == 1


def test_a_lower_bound_is_allowed() -> None:
    assert list(upper_bounds("assert time.monotonic() - begin > 5")) == []


def test_a_copy_of_the_bookshop_has_nothing_of_other_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = copy_bookshop(tmp_path / "used")
    of_the_example = {path.name for path in used.iterdir()}
    for left in "derived.json", "history.sqlite", ".personas.jsonl.tmp":
        (used / left).touch()
    (used / "maps").mkdir()
    monkeypatch.setattr(paths, "BOOKSHOP", used)
    copy = copy_bookshop(tmp_path / "a" / "copy")
    assert {path.name for path in copy.iterdir()} == of_the_example
    whole = [path for path, code in MODULES.items() if re.search(r"copytree\(\W*BOOKSHOP", code)]
    assert not whole, "copy it with copy_bookshop"
