"""The command `p4r peers`, which the other modules of this package add theirs to."""

from __future__ import annotations

import typer

peers = typer.Typer(
    help="Run the LLM rerankers that personas are compared with.",
    no_args_is_help=True,
)
