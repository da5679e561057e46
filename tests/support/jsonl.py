"""JSON Lines files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(folder: Path, name: str, rows: Iterable[Any]) -> Path:
    """Write one line for each row; a string is a line already, which may be broken."""
    path = folder / name
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    """The decoded rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
