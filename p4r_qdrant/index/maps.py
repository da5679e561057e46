"""The map of a version's personas: each one as a point in the plane, in a file of its own.

100,000 places are too many for the metadata of a version, which processes read again and again. So
the version keeps the name of its map (`IndexMetadata.persona_map`), and the file `NAME.npy` lies in
a folder beside the artifacts. It holds no texts: a point's id finds its persona in the index.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p4r_qdrant.index.payload import point_prefix
from p4r_qdrant.index.record_files import read_records, record_file

OTHER = 255
"""The category of a persona that is in none of the largest ones."""
_RECORD = np.dtype(
    [
        ("x", "<u2"),
        ("y", "<u2"),
        ("segment", "u1"),
        ("category", "u1"),
        ("persona", "<u4"),
        ("point", "V16"),
    ]
)


@dataclass(frozen=True, slots=True)
class Groups:
    """Of n personas: (n,) places among the version's segments, and among the map's categories."""

    segments: npt.NDArray[np.uint8]
    categories: npt.NDArray[np.uint8]


def map_file(
    places: npt.NDArray[np.uint16],
    groups: Groups,
    persona_ids: Sequence[str],
    points: Sequence[str],
) -> tuple[str, bytes]:
    """The name of a map and the content of its file.

    places: (n, 2). points: the ids of the n points. The same map has the same name.
    """
    records = np.empty(len(points), _RECORD)
    records["x"], records["y"] = places.T
    records["segment"], records["category"] = groups.segments, groups.categories
    records["persona"] = [persona_key(one) for one in persona_ids]
    ids = b"".join(uuid.UUID(one).bytes for one in points)
    records["point"] = np.frombuffer(ids, "V16")
    return record_file(records)


def persona_key(persona_id: str) -> int:
    """What a map keeps of the id of a persona: 32 bits."""
    return zlib.crc32(persona_id.encode(errors="replace"))


def keys_of(item_id: str, personas: Iterable[int]) -> list[int]:
    """What tells the personas of an item, each from its `persona_key`, in a whole map: 64 bits."""
    item = int(point_prefix(item_id).replace("-", "")[:16], 16)
    return [item ^ (one << 16) for one in personas]


class PersonaMap:
    """A map that is read from its file where it is needed."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises InputError if the folder has no such map, or it is broken."""
        sentence = f"{folder} has no map {name!r} that can be read: run p4r segments again"
        self._records = read_records(folder, name, ".npy", _RECORD, sentence)

    def __len__(self) -> int:
        return len(self._records)

    def drawn(self) -> bytes:
        """All x, all y (16 bits each, little-endian), all segments, all categories (8 bits)."""
        return b"".join(self._records[name].tobytes() for name in ("x", "y", "segment", "category"))

    def places(self) -> npt.NDArray[np.uint16]:
        """X and y of all personas, (n, 2)."""
        return np.stack([self._records["x"], self._records["y"]], axis=1)

    def groups(self) -> Groups:
        """The groups of all personas."""
        return Groups(self._records["segment"], self._records["category"])

    def keys(self) -> npt.NDArray[np.uint64]:
        """What tells each persona, (n,): see `keys_of`."""
        prefixes = self._records["point"].copy().view("u1").reshape(-1, 16)[:, :8]
        items = prefixes.copy().view(">u8").ravel().astype(np.uint64)
        keys: npt.NDArray[np.uint64] = items ^ (
            self._records["persona"].astype(np.uint64) << np.uint64(16)
        )
        return keys

    def point_id(self, number: int) -> str:
        """The id of a point of the index. Raises IndexError."""
        return str(uuid.UUID(bytes=self._records[number]["point"].tobytes()))
