"""Looking for words in the bytes of files, as somebody with the disk in his hands would."""

import os
from contextlib import suppress
from pathlib import Path

PAGE = 4096
ZEROS = bytes(PAGE)


def files_with(word: str, *folders: Path) -> list[str]:
    """The files below the folders (or among them) whose bytes hold a word."""
    wanted = word.encode()
    return sorted(str(path) for path in _files(folders) if wanted in content(path))


def _files(folders: tuple[Path, ...]) -> list[Path]:
    found = [one for one in folders if one.is_file()]
    for folder in folders:
        for path, _, names in os.walk(folder):
            found += [Path(path) / name for name in names]
    return found


def content(path: Path) -> bytes:
    """What is in a file, without its pages of zeros: most of an embedded index is holes.

    Empty if the file is gone: Qdrant rewrites its files.
    """
    parts = []
    with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # there is no more data
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - start, start)
            pages = (data[at : at + PAGE] for at in range(0, len(data), PAGE))
            parts += [page for page in pages if not ZEROS.startswith(page)]
    return b"".join(parts)
