"""Write a folder of artifacts whose files appear when all of them are written, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from indexer.artifacts.writing import storage_errors
from p4r_qdrant.errors import StorageFullError
from p4r_qdrant.file_lock import take
from p4r_qdrant.index.processes import is_running

_SUFFIX = ".unfinished"
_IN_USE = ".lock"
"""The file that who writes into an unfinished folder holds locked."""


@contextmanager
def output_folder(output: Path, move: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Make a folder to write into, which becomes `output` at the end of the block.

    If `output` does not exist, one rename does it. Else `move(written, output)` moves the files.
    If the block raises, `output` does not change.

    Raises: InputError or StorageFullError if the folder cannot be made or written.
    """
    given, output = output, output.absolute()
    exists = output.exists()
    name = f".{output.name}.{os.getpid()}{_SUFFIX}"
    folder = (output if exists else output.parent) / name
    with storage_errors(output, kept="nothing was written", cannot="be made or written"):
        if folder.parent.is_dir():
            remove_unfinished_folders(folder.parent)
        folder.mkdir(parents=True)
        try:
            with take(folder / _IN_USE) or nullcontext():
                yield folder
                (folder / _IN_USE).unlink(missing_ok=True)
                if exists:
                    move(folder, output)
                else:
                    folder.rename(output)
        except StorageFullError as error:  # with the name that the user knows
            raise StorageFullError(str(error).replace(str(folder), str(given))) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished_folders(folder: Path) -> None:
    """Delete the folders that killed processes left in a folder. Raises InputError."""
    for path in folder.glob(f".*{_SUFFIX}"):
        if path.is_dir() and not path.is_symlink() and not _is_in_use(path):
            with storage_errors(path, cannot="be removed"):
                shutil.rmtree(path)


def _is_in_use(folder: Path) -> bool:
    """Whether the process that writes into an unfinished folder is still there."""
    try:
        lock = take(folder / _IN_USE, os.O_RDWR)
    except OSError:  # not locked yet, or a file system without locks
        pid = folder.name.removesuffix(_SUFFIX).rpartition(".")[2]
        return not pid.isdecimal() or is_running(int(pid))
    if lock is None:
        return True
    lock.close()
    return False


def move_all(written: Path, output: Path) -> None:
    """Move every file into a folder that holds none of the same name."""
    for path in written.iterdir():
        path.replace(output / path.name)
