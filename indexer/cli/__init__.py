"""The `p4r` command: parsing, progress, exit codes. What a command does is written elsewhere.

Modules are imported inside the commands: `p4r --help` must not wait for an encoder, and serving
commands must run where the offline parts are not installed.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from indexer.cli import (
    artifacts,
    demonstration,
    evaluation,
    index,
    judging,
    reasoning,
    service,
    training,
)
from p4r_qdrant.errors import P4RError

app = typer.Typer(
    name="p4r",
    help="Persona-profiled item indexing on Qdrant: rerank candidates, and say why.",
    epilog="Settings come from P4R_* environment variables and p4r.toml. "
    "Exit codes: 0 done, 1 something failed, 2 something in the input to put right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _title, _group in (
    ("See it", demonstration.group),
    ("Index and rerank", index.group),
    ("Artifacts", artifacts.group),
    ("Artifacts", reasoning.group),
    ("Evaluate", evaluation.group),
    ("Evaluate", judging.group),
    ("Train", training.group),
    ("Serve", service.group),
):
    for _command in _group.registered_commands:
        _command.rich_help_panel = _title
    app.add_typer(_group)


def main() -> None:
    """The entry point: runs the command and turns our errors into sentences and exit codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter
    try:
        _run()
    except P4RError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run it again to go on", 130)
    except BrokenPipeError:
        _silence_output()
        sys.exit(0)  # whoever read our output has seen enough
    except OSError as error:
        _silence_output()
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}", 1)


def _run() -> None:
    """The command itself. Typer leaves by SystemExit, after Ctrl-C and a closed pipe too."""
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == 130:
            raise KeyboardInterrupt from None
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        sys.stdout.flush()
        raise


def _silence_output() -> None:
    """Drop what could not be written: Python would complain of it once more at exit."""
    with suppress(OSError):  # not every standard output is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"p4r: {sentence}\n")
    sys.exit(code)
