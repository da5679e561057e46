"""A lock file that one process at a time holds; the system releases it when the process ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import portalocker

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def take(path: Path) -> IO[Any] | None:
    """Make a lock file and lock it; None where another process (or this one) holds it.

    The caller closes what it gets, which releases the lock. Raises OSError.
    """
    while True:
        file = os.fdopen(os.open(path, _FLAGS, 0o666), "r+b")
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            file.close()
            return None
        # The one who held it may have moved or deleted the file: then this lock keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
