"""A lock on a file that one process at a time holds; it is released when the process ends."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import portalocker

LOCK_FILE = os.O_RDWR | os.O_CREAT


def take(path: Path, flags: int = LOCK_FILE, mode: int = 0o666) -> BinaryIO | None:
    """Open a file and lock it; None where another process (or this one) holds it.

    flags: of `os.open`, without following a link; as they are they make the file if it is not
    there. mode: of a file that is made. The caller closes what it gets, which releases the lock.
    Raises OSError, with ENOLCK where the file system has no locks.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        file = os.fdopen(os.open(path, flags, mode), "r+b")
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
            # Who held it may have moved or deleted the file: then this lock keeps nobody out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except portalocker.AlreadyLocked:
            file.close()
            return None
        except portalocker.LockException as error:
            file.close()
            raise OSError(errno.ENOLCK, f"no locks here ({error})", str(path)) from None
        file.close()
