"""No log holds what users wrote: neither by rule nor by accident."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from p4r_qdrant.errors import EncoderError, InputError, TextsRefusedError, for_log

ROOT = Path(__file__).parents[2]
SECRET = "my secret illness"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@pytest.mark.parametrize(
    "error",
    [
        TextsRefusedError([SECRET], {0: f"422: no {SECRET}, please"}, np.zeros((1, 2))),
        EncoderError(f"it answers 500: {SECRET}").quoting(SECRET),
        RuntimeError(SECRET),
        KeyError(SECRET),
    ],
)
def test_a_log_quotes_nobody(error: Exception) -> None:
    assert SECRET in str(error), "the caller is told"
    assert SECRET not in for_log(error)
    assert for_log(error)


def test_what_quotes_nobody_is_logged_whole() -> None:
    assert for_log(InputError("port 1 is in use")) == "port 1 is in use"
    assert for_log(EncoderError("it answers 500").quoting("")) == "it answers 500"


def quoting_logs(tree: ast.AST) -> Iterator[int]:
    """Lines that log an exception as it is."""
    caught = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        of_log = ast.unparse(node.func.value) in ("_log", "logs.requests", "logger")
        if of_log and node.func.attr in LEVELS:
            names = [*caught, "error", "reason"]
            given = [ast.unparse(one) for one in node.args[1:]]
            if any(one in names or one in [f"str({name})" for name in names] for one in given):
                yield node.lineno


def test_errors_are_logged_by_what_a_log_may_hold() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("p4r_qdrant", "indexer")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in quoting_logs(ast.parse(path.read_text()))
    ]
    assert not found, "log for_log(error), not the error"


def test_the_rule_would_be_found_broken() -> None:
    code = "try:\n    f()\nexcept E as failed:\n    _log.warning('%s', failed)\n"
    assert list(quoting_logs(ast.parse(code))) == [4]
