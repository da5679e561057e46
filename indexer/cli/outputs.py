"""The files that a command writes: never one of its inputs, and nobody else's without --force."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from p4r_qdrant.errors import InputError

Force = Annotated[
    bool, typer.Option("--force", help="Replace a file that this command did not write.")
]

# How the files begin that the commands write.
AUDIT_PAGE = re.compile(rb'<meta name="generator" content="p4r audit">')
AUDIT_RECORD = re.compile(rb'\A\{\s*"folder": "[^\n]*",\s*"split_pairs":')
BENCH = re.compile(rb'\A\{\s*"model": "[^\n]*",\s*"cells":')
EVALUATION = re.compile(rb'\A\{\s*"on": "(test|valid)",\s*"users":')
PLOT = re.compile(rb"\A\x89PNG.*p4r stats", re.DOTALL)
RATED = re.compile(rb'\A\{\s*"rated_pairs":')
RANKINGS = re.compile(rb'\A\{"user_id": "[^\n]*", "personalized": ')
REVIEW = re.compile(rb'\A(\{"item_id": "[^\n]*", "title": |item_id,title,persona_id,state,)')
_HEAD = 4096


def check_output(
    path: Path,
    reads: Iterable[Path | None],
    *,
    force: bool,
    ours: re.Pattern[bytes] | None = None,
) -> None:
    """Refuse to write over an input, or over a file that the command did not write.

    An empty file, such as `mktemp` makes, may be replaced.
    reads: the files and folders that the command reads.
    ours: matches the first bytes of every file that the command writes.
    Raises: InputError.
    """
    if str(path) == "-" or not path.is_file():  # new, a pipe or a device
        return
    mine = ours is not None and _begins(path, ours)
    for read in reads:
        if read is None or not read.exists():
            continue
        if read.samefile(path):
            raise InputError(f"{path} is an input of this command; name another output")
        if read.is_dir() and not mine and _is_in(read, path):
            raise InputError(
                f"{path} is a file in {read}, which this command reads; name another output"
            )
    if not mine and not force and path.stat().st_size:
        raise InputError(
            f"{path} is there already and this command did not write it; --force replaces it"
        )


def check_outputs(
    folder: Path, names: Iterable[str], reads: Iterable[Path | None], *, force: bool
) -> None:
    """`check_output` for files in a folder."""
    inputs = list(reads)
    for name in names:
        check_output(folder / name, inputs, force=force)


@contextmanager
def new_file(
    path: Path, ours: re.Pattern[bytes], reads: Iterable[Path | None], *, force: bool
) -> Iterator[Callable[[str], None]]:
    """`written_whole`, after `check_output`; says on standard error what it wrote."""
    from indexer.artifacts.writing import written_whole
    from indexer.terminal.console import err

    check_output(path, reads, force=force, ours=ours)
    with written_whole(path, private=ours in (RANKINGS, REVIEW)) as write:
        yield write
    if str(path) != "-":
        err.say(f"written: {path}")


def _is_in(folder: Path, path: Path) -> bool:
    """Whether a file is in a folder, by its path or by a hard link."""
    if path.resolve().is_relative_to(folder.resolve()):
        return True
    return any(one.samefile(path) for one in folder.iterdir() if one.is_file())


def _begins(path: Path, ours: re.Pattern[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            return ours.search(file.read(_HEAD)) is not None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
