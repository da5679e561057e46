"""`p4r init`, `config`, `doctor` and `check`: what one does first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.shared import AsJson, print_json
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError

group = typer.Typer()

File = Annotated[Path | None, typer.Option(metavar="FILE", help="Check this file, too.")]


@group.command(epilog="Example:  p4r init")
def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite a p4r.toml.")] = False,
) -> None:
    """Write a commented p4r.toml with every setting into this folder."""
    from indexer.artifacts.writing import written_whole
    from indexer.configuration import template
    from indexer.terminal.console import out
    from p4r_qdrant.settings import CONFIG_FILE

    path = Path(CONFIG_FILE)
    if path.exists() and not force:
        raise InputError(f"{path} is already in this folder; --force overwrites it")
    with written_whole(path) as write:
        write(template().rstrip("\n"))
    out.say(f"{path} written; every setting in it is commented out")


@group.command(epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 p4r config")
def config(as_json: AsJson = False) -> None:
    """Print the settings in use and where each one comes from; secrets are masked."""
    from indexer.configuration import effective
    from indexer.terminal.setup import print_settings

    found = effective()
    if as_json:
        print_json(
            [
                {
                    "section": one.setting.section,
                    "name": one.setting.name,
                    "variable": one.setting.variable,
                    "value": one.shown,
                    "source": one.source,
                }
                for one in found
            ]
        )
    else:
        print_settings(found)


@group.command(epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 p4r doctor")
@of_tenant
def doctor(
    as_json: AsJson = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest wait for one answer, in seconds.")
    ] = 5.0,
) -> None:
    """Probe encoder, index, Qdrant, LLM and disk; say what to do where one fails.

    Writes nothing. Exit code 1 if anything that is configured fails.
    """
    from dataclasses import asdict

    from indexer.doctor import examine
    from indexer.terminal.setup import print_finding

    found = []
    for finding in examine(seconds):
        found.append(finding)
        if not as_json:
            print_finding(finding)
    if as_json:
        print_json([asdict(one) for one in found])
    if any(one.state == "failed" for one in found):
        raise typer.Exit(1)


@group.command(epilog="Example:  p4r check examples/bookshop")
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="An artifact folder, or an embedded index."),
    ] = None,
    items: File = None,
    reviews: File = None,
    splits: File = None,
    candidates: File = None,
    every: Annotated[
        bool, typer.Option("--all", help="Print all problems, not the first 20.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate an artifact folder or single files: each line, and the ids across files.

    Of the folder of an embedded index: the checksum of each file, and each item of each version.

    Exit code 2 if anything is broken. A file that is given takes the place of the folder's.
    """
    import sys
    from dataclasses import asdict

    from indexer.artifacts.names import CANDIDATES, ITEMS, REVIEWS, SPLITS
    from indexer.checking import check_erasure, check_files, check_index, files_of, index_versions
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.setup import print_check
    from p4r_qdrant.settings import Settings

    given = {ITEMS: items, REVIEWS: reviews, SPLITS: splits, CANDIDATES: candidates}
    keep = sys.maxsize if every else 20
    versions = index_versions(folder) if folder is not None and not any(given.values()) else None
    if versions is not None:
        with ProgressBar() as bar:
            report = check_index(versions, keep=keep, progress=bar)
    else:
        files = files_of(folder, given)
        most = Settings.load().index.max_personas
        with ProgressBar() as bar:
            report = check_files(files, max_personas=most, keep=keep, progress=bar)
        if folder is not None:
            check_erasure(folder, report)
    if as_json:
        print_json(
            {
                "files": [asdict(one) | {"path": str(one.path)} for one in report.files],
                "broken": report.broken,
                "reasons": dict(report.refusals.counts),
                "problems": report.refusals.sentences,
                "notes": report.notes,
            }
        )
    else:
        print_check(report)
    if report.broken:
        raise typer.Exit(2)
