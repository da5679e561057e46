"""A map of an index whose personas lie on a line, so that a test knows where."""

from pathlib import Path

import numpy as np

from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.maps import Groups, map_file
from p4r_qdrant.index.payload import point_id


def record_map(index: PersonaIndex, folder: Path, items: list[str]) -> None:
    """Map the first persona of each item, from the upper left to the lower right; two segments."""
    line = np.linspace(0, 2**16 - 1, len(items)).astype(np.uint16)
    points = [point_id(one, 0) for one in items]
    segments = (np.arange(len(items)) % 2).astype(np.uint8)
    groups = Groups(segments, 1 - segments)
    ids = [f"{one}_P0" for one in items]
    name, content = map_file(np.stack([line, line], axis=1), groups, ids, points)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.npy").write_bytes(content)
    index.record(persona_map=name, map_categories='["sea", "land <i>"]')
