"""How often each persona of a version wins, and for whom: shares of users, never users.

A user counts for the persona of an item with the largest score (Eq. 10). The shares are too many
for the metadata of a version, so they lie in a file beside its map: `NAME.wins`, sorted by point.
"""

from __future__ import annotations

import hashlib
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p4r_qdrant.index.record_files import read_records, record_file
from p4r_qdrant.records import StoredPersona

SUFFIX = ".wins"
MOST_SEGMENTS = 3
"""Segments that are told of one persona."""
NOT_TOLD = 255
"""In place of a share of users that are too few."""

_RECORD = np.dtype(
    [
        ("point", "V16"),
        ("text", "V4"),
        ("share", "u1"),
        ("segments", "u1", (MOST_SEGMENTS,)),
        ("shares", "u1", (MOST_SEGMENTS,)),
    ]
)
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Won:
    """How often a persona wins.

    share: of the users, in percent; None: they are too few to be told. segments: (its place among
    the segments of the version, percent of the users that the persona wins), the largest first.
    """

    share: int | None
    segments: tuple[tuple[int, int], ...] = ()


def wins_file(
    personas: Sequence[StoredPersona],
    points: Sequence[str],
    shares: Bytes,
    segments: Bytes,
    of_segments: Bytes,
) -> tuple[str, bytes]:
    """The name and the content of the file.

    points: the ids of the n personas' points. shares: (n,) in percent. segments, of_segments:
    (n, MOST_SEGMENTS) places of segments, and their shares in percent; NOT_TOLD where there is
    none.
    """
    records = np.empty(len(points), _RECORD)
    records["point"] = np.frombuffer(b"".join(map(_point, points)), "V16")
    records["text"] = np.frombuffer(b"".join(map(_text, personas)), "V4")
    records["share"], records["segments"], records["shares"] = shares, segments, of_segments
    order = sorted(range(len(points)), key=lambda one: records["point"][one].tobytes())
    return record_file(records[order])


class Wins:
    """The wins of a version, read from their file where they are needed."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises InputError if the folder has no such file, or it is broken."""
        sentence = f"{folder} does not say how often personas win: run p4r segments again"
        self._records = read_records(folder, name, SUFFIX, _RECORD, sentence)

    def of(self, point: str, persona: StoredPersona) -> Won | None:
        """How often the persona at a point wins; None if it was not there, or had other texts."""
        wanted = _point(point)
        place = bisect_left(
            range(len(self._records)), wanted, key=lambda one: self._records[one]["point"].tobytes()
        )
        if place == len(self._records) or self._records[place]["point"].tobytes() != wanted:
            return None
        found = self._records[place]
        if found["text"].tobytes() != _text(persona):
            return None
        share = int(found["share"])
        segments = zip(found["segments"].tolist(), found["shares"].tolist(), strict=True)
        told = tuple((one, part) for one, part in segments if part != NOT_TOLD)
        return Won(None if share == NOT_TOLD else share, told)


def _point(point_id: str) -> bytes:
    return uuid.UUID(point_id).bytes


def _text(persona: StoredPersona) -> bytes:
    words = "\0".join((persona.name, persona.description, persona.preference_rationale))
    return hashlib.blake2b(words.encode(errors="replace"), digest_size=4).digest()
