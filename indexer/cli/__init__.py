"""The `p4r` command: arguments, progress, exit codes. The work is done elsewhere.

Modules are imported inside the commands: `p4r --help` must not load an encoder, and the commands
for serving must run without the offline parts.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.main import get_command_name

from indexer.cli import (
    artifacts,
    backup,
    demonstration,
    evaluation,
    index,
    judging,
    looking,
    peers,
    reasoning,
    review,
    segments,
    service,
    setup,
    tenants,
    training,
    why_not,
)
from p4r_qdrant.errors import P4RError

BOXED = 80
"""Columns that help in boxes needs: with fewer, rich cuts the names of options."""
HELP = "Persona-profiled item indexing on Qdrant: rerank candidates, and say why."


def _set_help(group: typer.Typer) -> None:
    """Make one line of each paragraph of a docstring, and of the first the summary in lists."""
    for command in group.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        lines = [" ".join(paragraph.split()) for paragraph in paragraphs]
        command.help, command.short_help = "\n\n".join(lines), lines[0]
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            inner.short_help = inner.typer_instance.info.help
            _set_help(inner.typer_instance)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"p4r-qdrant {version('p4r-qdrant')}")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _application(*groups: typer.Typer) -> typer.Typer:
    """`p4r` with the commands of these groups."""
    made = typer.Typer(
        name="p4r",
        help=HELP,
        epilog="Settings come from P4R_* environment variables and p4r.toml. "
        "Exit codes: 0 done, 1 something failed, 2 something in the input to put right.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback(help=HELP)(_options)
    for group in groups:
        made.add_typer(group)
    return made


GROUPS = (
    ("See it", demonstration.group),
    ("Set up", setup.group),
    ("Index and rerank", index.group),
    ("Index and rerank", looking.group),
    ("Index and rerank", why_not.group),
    ("Index and rerank", segments.group),
    ("Back up and move", backup.group),
    ("Back up and move", tenants.group),
    ("Artifacts", artifacts.group),
    ("Artifacts", reasoning.group),
    ("Artifacts", review.group),
    ("Evaluate", evaluation.group),
    ("Evaluate", judging.group),
    ("Evaluate", peers.group),
    ("Train", training.group),
    ("Serve", service.group),
)
for _title, _group in GROUPS:
    for _command in _group.registered_commands:
        _command.rich_help_panel = _title
    for _inner in _group.registered_groups:
        _inner.rich_help_panel = _title
    _set_help(_group)

app = _application(*(group for _, group in GROUPS))


def _with_command(name: str) -> typer.Typer:
    """`p4r` with this command alone: Typer takes long to read the options of all of them.

    With all commands, if none has this name.
    """
    for _, group in GROUPS:
        alone = typer.Typer()
        for command in group.registered_commands:
            own = command.name or get_command_name(getattr(command.callback, "__name__", ""))
            if name == own:
                alone.registered_commands = [command]
        alone.registered_groups = [one for one in group.registered_groups if one.name == name]
        if alone.registered_commands or alone.registered_groups:
            return _application(alone)
    return app


def main() -> None:
    """Run the command; turn errors into one sentence and an exit code."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal that lacks a letter
    try:
        _run()
    except P4RError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run it again to go on", 130)
    except BrokenPipeError:
        _silence_output()
        sys.exit(0)  # the reader of the pipe has seen enough
    except OSError as error:
        _silence_output()
        what = f"{error.filename or 'the output'}: {error.strerror or error}"
        if error.errno == errno.ENAMETOOLONG:
            _fail(f"{what}; give a shorter one", 2)
        _fail(what, 1)


def _open_closed_streams() -> None:
    """Give standard streams that the caller closed (`p4r status >&-`) to the null device.

    Done first, or a file that a command opens gets their number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def _run() -> None:
    """Run Typer, which leaves by SystemExit, also after Ctrl-C and a closed pipe."""
    from indexer.terminal.console import out

    asked = _with_command(sys.argv[1]) if len(sys.argv) > 1 else app
    asked.rich_markup_mode = "rich" if out.width >= BOXED and not out.ascii_only else None
    try:
        asked(prog_name="p4r", terminal_width=out.width)
    except SystemExit as leaving:
        if leaving.code == 130:
            raise KeyboardInterrupt from None
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        sys.stdout.flush()
        raise


def _silence_output() -> None:
    """Drop unwritten output, or Python reports it once more at exit."""
    with suppress(OSError):  # not every standard output is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"p4r: {sentence}\n")
    sys.exit(code)
