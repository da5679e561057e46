"""Damage a file."""

from pathlib import Path


def flip(path: Path, place: int) -> None:
    """Change one bit of the byte at `place`. Done twice, it is undone."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))
