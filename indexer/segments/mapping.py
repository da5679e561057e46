"""DIR/maps: where in the plane a version's personas lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.artifacts.writing import storage_errors
from p4r_qdrant.arrays import Floats
from p4r_qdrant.artifact_names import MAPS
from p4r_qdrant.index.maps import OTHER, Groups, map_file
from p4r_qdrant.whole_files import write_whole

KEPT = 5
"""Maps that stay, the newest ones: for versions that are kept for a rollback."""
_WIDTH = 2**16 - 1
MOST_CATEGORIES = 24
"""Categories that a map tells apart."""


def places(vectors: Floats) -> npt.NDArray[np.uint16]:
    """The two first principal components, (n, 2), both on one scale from 0 to 65,535.

    vectors: (n, dim). The same vectors have the same places.
    """
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    # The sign of an eigenvector is any: its largest part is positive.
    first = first * np.sign(first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])])
    flat = np.zeros((len(vectors), 2))
    flat[:, : first.shape[1]] = centred @ first
    lowest, highest = flat.min(axis=0), flat.max(axis=0)
    scale = max(float((highest - lowest).max()), 1e-9)
    middle = (lowest + highest) / 2
    share: npt.NDArray[np.float64] = (0.5 + (flat - middle) / scale).clip(0, 1)
    return np.rint(share * _WIDTH).astype(np.uint16)


def write_map(
    folder: Path,
    vectors: Floats,
    groups: Groups,
    persona_ids: Sequence[str],
    points: Sequence[str],
) -> str:
    """Write the map of personas, and return its name: see `map_file`. vectors: (n, dim)."""
    return write_kept(folder, ".npy", *map_file(places(vectors), groups, persona_ids, points))


def write_kept(folder: Path, suffix: str, name: str, content: bytes) -> str:
    """Write a file for a version, and return its name. Older ones than the newest are deleted."""
    maps = folder / MAPS
    path = maps / f"{name}{suffix}"
    with storage_errors(path, kept="nothing was recorded"):
        maps.mkdir(exist_ok=True)
        write_whole(path, content)
        oldest_first = sorted(maps.glob(f"*{suffix}"), key=lambda one: one.stat().st_mtime_ns)
        for old in oldest_first[:-KEPT]:
            old.unlink(missing_ok=True)
    return name


def grouped(categories: Sequence[str]) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """The largest categories, and the place of each persona among them; OTHER for all others."""
    counts = Counter(filter(None, categories))
    largest = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_CATEGORIES]
    place = {one: number for number, one in enumerate(largest)}
    return largest, np.array([place.get(one, OTHER) for one in categories], np.uint8)
