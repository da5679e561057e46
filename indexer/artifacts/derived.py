"""Which folders hold results that were made from an artifact folder: FOLDER/derived.json.

They hold what people did and said, so that erasing somebody must reach them. A copy of the artifact
folder is another shop: erasing somebody from it does not touch the results of the original.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from indexer.artifacts.names import DERIVED
from p4r_qdrant.errors import InputError
from p4r_qdrant.whole_files import write_whole


@contextmanager
def noted(artifacts: Path, output: Path) -> Iterator[None]:
    """Note that a folder gets results made from an artifact folder, unless the block undoes it or
    fails before it has written any.

    Nothing is noted in a folder that cannot be written: nobody can be erased from it either.
    """
    known = [one for one in derived_from(artifacts) if one.exists()]  # others were deleted
    path = output.resolve()
    is_new = path not in known and artifacts.is_dir()
    before = _names(output)
    if is_new:
        _write(artifacts, [*known, path])
    try:
        yield
    except BaseException:
        if is_new and _names(output) == before:
            _write(artifacts, known)
        raise
    if is_new and not output.exists():
        _write(artifacts, known)


def _names(folder: Path) -> set[Path]:
    """What is in a folder and in those in it."""
    return set(folder.rglob("*"))


def _write(artifacts: Path, folders: Sequence[Path]) -> None:
    path = artifacts / DERIVED
    with suppress(OSError):
        if folders:
            note = {"of": str(artifacts.resolve()), "folders": [str(one) for one in folders]}
            write_whole(path, json.dumps(note))
        else:
            path.unlink(missing_ok=True)


def derived_from(artifacts: Path) -> list[Path]:
    """The folders that are noted; none in a copy, while the original is there.

    Raises InputError if the note is broken.
    """
    path = artifacts / DERIVED
    if not path.is_file():
        return []
    try:
        note = json.loads(path.read_bytes())
        if isinstance(note, list):  # by an earlier release, or by hand
            return [Path(one) for one in note]
        original = Path(note["of"])
        if original != artifacts.resolve() and (original / DERIVED).is_file():
            return []
        return [Path(one) for one in note["folders"]]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{path} is broken: write the folders of results into it, as a JSON list"
        ) from None
