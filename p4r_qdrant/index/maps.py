"""The map of a version's personas: each one as a point in the plane, in a file of its own.

100,000 places are too many for the metadata of a version, which processes read again and again. So
the version keeps the name of its map (`IndexMetadata.persona_map`), and the file `NAME.npy` lies in
a folder beside the artifacts. It holds no texts: a point's id finds its persona in the index.
"""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p4r_qdrant.errors import InputError

_RECORD = np.dtype([("x", "<u2"), ("y", "<u2"), ("segment", "u1"), ("point", "V16")])
_NAME = re.compile(r"[0-9a-f]{32}")


def map_file(
    places: npt.NDArray[np.uint16], segments: npt.NDArray[np.uint8], points: Sequence[str]
) -> tuple[str, bytes]:
    """The name of a map and the content of its file.

    places: (n, 2). segments: (n,), places in the tuple of the version's segments. points: the ids
    of the n points. The same map has the same name.
    """
    records = np.empty(len(points), _RECORD)
    records["x"], records["y"] = places.T
    records["segment"] = segments
    ids = b"".join(uuid.UUID(one).bytes for one in points)
    records["point"] = np.frombuffer(ids, "V16")
    file = io.BytesIO()
    np.save(file, records)
    content = file.getvalue()
    return hashlib.sha256(content).hexdigest()[:32], content


class PersonaMap:
    """A map that is read from its file where it is needed."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises InputError if the folder has no such map, or it is broken."""
        sentence = f"{folder} has no map {name!r} that can be read: run p4r segments again"
        if not _NAME.fullmatch(name):
            raise InputError(sentence)
        try:
            records = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError):
            raise InputError(sentence) from None
        if records.dtype != _RECORD or records.ndim != 1:
            raise InputError(sentence)
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def drawn(self) -> bytes:
        """All x, then all y (16 bits each, little-endian), then all segments (8 bits each)."""
        return b"".join(self._records[name].tobytes() for name in ("x", "y", "segment"))

    def point_id(self, number: int) -> str:
        """The id of a point of the index. Raises IndexError."""
        return str(uuid.UUID(bytes=self._records[number]["point"].tobytes()))
