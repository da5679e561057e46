"""A small disk that a test can fill."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A small disk of its own, to be filled to the last byte and freed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Leave no more than so many bytes free."""
        free = shutil.disk_usage(self.folder).free - leave
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, free))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def full_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Mount one; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk that can be filled is mounted here, which only root may do")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
