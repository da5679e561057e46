"""Check the lists of point ids of a shard that was not closed, before Qdrant Edge reads them.

Each appendable segment appends to `mutable_id_tracker.mappings` which point is at which position:

    1 byte    1 or 2: a number or UUID is inserted; 3 or 4: one is deleted
    8 or 16   the number or UUID
    4         the position, little-endian; not after a deletion

Positions are given one after the other. Qdrant Edge makes room up to the largest one: a flipped bit
in it fills memory and disk for minutes.
"""

from __future__ import annotations

from pathlib import Path

_LENGTHS = {1: 13, 2: 21, 3: 9, 4: 17}
_POSITION = 4
_INSERTED = 2


def damage_of(shard: Path) -> str:
    """The first damage, as a part of a sentence; "" if there is none. Raises OSError."""
    for path in sorted(shard.glob("segments/*/mutable_id_tracker.mappings")):
        content = path.read_bytes()
        largest, inserted = _counted(content)
        if largest >= inserted:
            return f"{path.relative_to(shard.parent)} names point {largest} of {inserted}"
    return ""


def _counted(content: bytes) -> tuple[int, int]:
    """The largest position (-1: none), and the number of points that were inserted.

    Ends at what is no record: a kill may have cut off the last one.
    """
    largest, inserted, at = -1, 0, 0
    while at < len(content):
        kind = content[at]
        end = at + _LENGTHS.get(kind, len(content))
        if end > len(content):
            break
        if kind <= _INSERTED:
            inserted += 1
            largest = max(largest, int.from_bytes(content[end - _POSITION : end], "little"))
        at = end
    return largest, inserted
