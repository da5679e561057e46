"""Damage a file."""

import os
import random
from pathlib import Path

import numpy as np


def flip(path: Path, place: int) -> None:
    """Change one bit of the byte at `place`. Done twice, it is undone."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def damage(path: Path, moment: random.Random) -> str:
    """Damage a file that is not empty in one of the ways of failing disks; returns how."""
    size = path.stat().st_size
    kind = moment.choice(("flip", "flip", "cut", "zeros", "junk", "empty", "gone"))
    used = np.flatnonzero(np.memmap(path, np.uint8, "r"))
    where = int(moment.choice(used)) if len(used) and moment.random() < 0.8 else None
    place = moment.randrange(size) if where is None else where
    if kind == "flip":
        flip(path, place)
    elif kind == "cut":
        os.truncate(path, place)
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "gone":
        path.unlink()
    else:
        length = min(size - place, 1 + moment.randrange(512))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes(length) if kind == "zeros" else moment.randbytes(length))
    return f"{path.name}: {kind} at {place} of {size}"
