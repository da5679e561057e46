"""Write whole files: a file holds all of its new content, or stays as it was."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from p4r_qdrant.file_lock import take

PRIVATE = 0o600
"""The mode of files with people's words."""
_SUFFIX = ".unfinished"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` at the end of the block.

    The content goes to a temporary file in the same folder, is synced to the disk and renamed.
    If the block raises, `path` keeps its old content. A symbolic link stays a link. A pipe or a
    device is written to directly. The temporary files that killed processes left in the folder are
    deleted.

    private: only the owner may read the file. Otherwise it may be read as the old one, at most.
    Yields: a binary file object.
    Raises: OSError.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a pipe or a device
        with target.open("wb") as file:
            yield file
        return
    mode = PRIVATE if private else 0o666
    with suppress(FileNotFoundError):
        mode &= target.stat().st_mode
    with suppress(OSError):  # another user's
        remove_unfinished(target.parent)
    temporary, opened = _temporary(target, mode)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # Windows renames no open file
                file.close()
            temporary.replace(target)
    finally:
        with suppress(OSError):  # after a rename it is gone
            temporary.unlink()
    with suppress(OSError):  # some file systems cannot sync a folder; the file is whole anyway
        sync_folder(target.parent)


def _temporary(target: Path, mode: int) -> tuple[Path, BinaryIO]:
    """A new file beside a file. While it is open, `remove_unfinished` leaves it alone."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
        try:
            file = take(path, _NEW, mode)
        except OSError as error:
            if error.errno != errno.ENOLCK:
                raise
            return path, path.open("r+b")
        if file is not None:
            return path, file
        # `remove_unfinished` of another process was faster than the lock.


def write_whole(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Replace the content of a file (text as UTF-8) with `whole_file`. Raises OSError."""
    with whole_file(path, private=private) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def opened_privately(path: Path, mode: str, buffering: int = -1) -> BinaryIO:
    """`open` for a file with people's words: if it is new, only its owner may read it.

    mode: of `open`, a binary one. Raises OSError.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, PRIVATE)

    return cast("BinaryIO", open(path, mode, buffering=buffering, opener=opener))


def is_unfinished(name: str) -> bool:
    """Whether a file name is that of a temporary file of `whole_file`."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files that killed processes left; those in use stay. Raises OSError."""
    for path in folder.glob(f".*{_SUFFIX}"):
        if path.is_symlink():
            path.unlink(missing_ok=True)
        elif path.is_file():
            with suppress(FileNotFoundError):
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    file = take(path, os.O_RDWR)
    if file is not None:
        with file:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that new and renamed entries survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
