"""The option --tenant: on every command that uses an index, and nowhere else."""

import pytest
import typer
from typer.testing import CliRunner

from indexer.cli import app
from p4r_qdrant.errors import InputError

USE_NO_INDEX = {
    *("audit", "candidates", "check", "config", "demo", "demo-llm", "evaluate", "experiment"),
    *("import", "init", "judge", "local-llm", "mcp", "peers", "prepare", "reason", "stats", "tune"),
}
"""They work on files, with an index of their own, or with a running service."""


def test_every_command_that_uses_an_index_has_the_option() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    without = {
        name
        for name, one in commands.items()
        if not any("--tenant" in option.opts for option in one.params)
    }
    assert without - {"tenant", "review"} == USE_NO_INDEX
    withdraw = commands["review"].commands["withdraw"]
    assert any("--tenant" in option.opts for option in withdraw.params)


@pytest.mark.parametrize("name", ["", "a/b", "\U0001f600", "x" * 200_000])
def test_a_name_that_no_tenant_can_have(name: str) -> None:
    found = CliRunner().invoke(app, ["status", "--tenant", name])
    assert isinstance(found.exception, InputError)
    assert str(found.exception).startswith("--tenant: a tenant's name has 1 to 63 of")
