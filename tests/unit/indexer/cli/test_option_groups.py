"""Dataclasses as groups of options."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from indexer.cli.option_groups import grouped


@dataclass(frozen=True)
class Range:
    """Two numbers, one of which must be given."""

    low: Annotated[int, typer.Option(help="The lower end.")]
    high: Annotated[int, typer.Option("--to", min=0, help="The upper end.")] = 9


app = typer.Typer()
seen: list[tuple[Range, str, bool]] = []


@app.command()
@grouped
def show(name: Annotated[str, typer.Argument()], ends: Range, loud: bool = False) -> None:
    """Show a range."""
    seen.append((ends, name, loud))


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, arguments, terminal_width=120)
    return found.exit_code, found.output


def test_fields_are_options_with_defaults_and_help() -> None:
    code, text = run("--help")
    assert code == 0
    assert "Show a range." in text
    for one in ("--low", "The lower end.", "--to", "default: 9", "required", "--loud"):
        assert one in text
    assert "--ends" not in text


def test_the_command_gets_the_dataclass() -> None:
    seen.clear()
    assert run("x", "--low", "3")[0] == 0
    assert run("y", "--low", "1", "--to", "2", "--loud")[0] == 0
    assert seen == [(Range(3), "x", False), (Range(1, 2), "y", True)]


def test_a_missing_or_wrong_option_is_a_mistake_of_the_user() -> None:
    assert run("x")[0] == 2
    assert run("x", "--low", "1", "--to", "-1")[0] == 2
