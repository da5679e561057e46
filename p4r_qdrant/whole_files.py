"""Write whole files: a file holds all of its new content, or stays as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".unfinished"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` at the end of the block.

    The content goes to a temporary file in the same folder, is synced to the disk and renamed.
    If the block raises, `path` keeps its old content. A symbolic link stays a link. A pipe or a
    device is written to directly.

    Yields: a binary file object.
    Raises: OSError.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a pipe or a device
        with target.open("wb") as file:
            yield file
        return
    # The thread id keeps two writers apart. It is short, and a restarted container reuses it.
    temporary = target.with_name(f".{target.name}.{threading.get_native_id()}{_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        with suppress(OSError):  # after a rename it is gone
            temporary.unlink()
    with suppress(OSError):  # some file systems cannot sync a folder; the file is whole anyway
        sync_folder(target.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace the content of a file (text as UTF-8) with `whole_file`. Raises OSError."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def is_unfinished(name: str) -> bool:
    """Whether a file name is that of a temporary file of `whole_file`."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files that killed processes left. Raises OSError.

    No other process may be writing to the folder.
    """
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that new and renamed entries survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
