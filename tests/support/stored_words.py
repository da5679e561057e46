"""Looking for words in the bytes of files, as somebody with the disk in his hands would."""

import os
from pathlib import Path


def files_with(word: str, *folders: Path) -> list[str]:
    """The files below the folders (or among them) whose bytes hold a word."""
    wanted = word.encode()
    return sorted(str(path) for path in _files(folders) if wanted in _content(path))


def _files(folders: tuple[Path, ...]) -> list[Path]:
    found = [one for one in folders if one.is_file()]
    for folder in folders:
        for path, _, names in os.walk(folder):
            found += [Path(path) / name for name in names]
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # Qdrant has just rewritten it
        return b""
