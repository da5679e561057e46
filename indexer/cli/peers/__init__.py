"""`p4r peers`."""

from __future__ import annotations

import typer

from indexer.cli.peers import benchmark, comparing, ranking, rating, tuning
from indexer.cli.peers.app import peers

__all__ = ["benchmark", "comparing", "group", "ranking", "rating", "tuning"]

group = typer.Typer()
group.add_typer(peers, name="peers")
