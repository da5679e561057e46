"""Write a folder of artifacts whose files appear when all of them are written, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.artifacts.writing import storage_errors


@contextmanager
def output_folder(output: Path, move: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Make a folder to write into, which becomes `output` at the end of the block.

    If `output` does not exist, one rename does it. Else `move(written, output)` moves the files.
    If the block raises, `output` does not change.

    Raises: InputError or StorageFullError if the folder cannot be made or written.
    """
    output = output.absolute()
    exists = output.exists()
    name = f".{output.name}.{os.getpid()}.unfinished"
    folder = (output if exists else output.parent) / name
    with storage_errors(output, kept="nothing was written", cannot="be made or written"):
        folder.mkdir(parents=True)
        try:
            yield folder
            if exists:
                move(folder, output)
            else:
                folder.rename(output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def move_all(written: Path, output: Path) -> None:
    """Move every file into a folder that holds none of the same name."""
    for path in written.iterdir():
        path.replace(output / path.name)
