"""The files that a command writes: never its inputs; other programs' files only with --force."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from indexer.artifacts.names import ARTIFACTS, CANDIDATES
from p4r_qdrant.errors import InputError

Force = Annotated[
    bool, typer.Option("--force", help="Replace a file that this command did not write.")
]

# How the files begin that the commands write.
AUDIENCE_TABLE = re.compile(rb"\Asegment,name,user_id,smallest\r?\n")
AUDIT_PAGE = re.compile(rb'<meta name="generator" content="p4r audit">')
AUDIT_RECORD = re.compile(rb'\A\{\s*"folder": "[^\n]*",\s*"split_pairs":')
BENCH = re.compile(rb'\A\{\s*"model": "[^\n]*",\s*"cells":')
EXPERIMENT_PAGE = re.compile(rb'<meta name="generator" content="p4r experiment">')
EVALUATION = re.compile(rb'\A\{\s*"on": "(test|valid)",\s*"users":')
FLAGGED = re.compile(rb'\A\{"item_id": "[^\n]*", "persona_id": "[^\n]*", "digest": ')
LISTS = re.compile(rb'\A\{\s*"model": "[^\n]*",\s*"settings":')
PLOT = re.compile(rb"\A\x89PNG.*p4r stats", re.DOTALL)
RATED = re.compile(rb'\A\{\s*"rated_pairs":')
RANKINGS = re.compile(rb'\A\{"user_id": "[^\n]*", "personalized": ')
REVIEW = re.compile(rb'\A(\{"item_id": "[^\n]*", "title": |item_id,title,persona_id,state,)')
TUNING = re.compile(rb'\A\{\s*"fingerprint": ')
VERDICTS = re.compile(rb'\A\{\s*"systems": \[')
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
    if str(path) == "-" or (path.exists() and not path.is_file()):  # a pipe or a device
        return
    _check_folder(path)
    if not path.exists():
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


def check_file(
    path: Path,
    reads: Iterable[Path | None],
    *,
    force: bool,
    ours: re.Pattern[bytes] | None = None,
) -> None:
    """`check_output` for a file that the user names.

    Its folder has to exist. Where the command reads files of that folder, its name must not be that
    of an artifact: the next command would read it as one.
    """
    inputs = [one for one in reads if one is not None]
    check_output(path, inputs, force=force, ours=ours)
    if str(path) == "-":
        return
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.name.casefold().removesuffix(".gz") not in ARTIFACTS - {CANDIDATES}:
        return
    for read in inputs:
        folder = read if read.is_dir() else read.parent
        if folder.resolve() == path.parent.resolve():
            raise InputError(
                f"{path} has the name of an artifact in {folder}, which this command reads; name "
                "another output"
            )


def is_one_file(path: Path, other: Path) -> bool:
    """Whether two paths name one file, also through links."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


@contextmanager
def new_file(
    path: Path, ours: re.Pattern[bytes], reads: Iterable[Path | None], *, force: bool
) -> Iterator[Callable[[str], None]]:
    """`written_whole`, after `check_file`; says on standard error what it wrote."""
    from indexer.artifacts.writing import written_whole
    from indexer.terminal.console import err

    check_file(path, reads, force=force, ours=ours)
    with written_whole(path, private=ours in (RANKINGS, REVIEW)) as write:
        yield write
    if str(path) != "-":
        err.say(f"written: {path}")


def _check_folder(path: Path) -> None:
    """Raise InputError if no file can be made at a path, before hours of work for it."""
    place = next(one for one in path.absolute().parents if one.exists())
    if not place.is_dir():
        raise InputError(f"{path} cannot be written: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: nothing may be written to {place}")


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
