"""How often each persona wins among known users, and users of which segments it wins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.artifacts.writing import storage_errors
from indexer.progress import SILENT, Progress
from p4r_qdrant.arrays import Floats
from p4r_qdrant.artifact_names import MAPS
from p4r_qdrant.index.wins import MOST_SEGMENTS, NOT_TOLD, SUFFIX, Bytes

MOST_USERS = 20_000
"""Users that are asked; of more of them, the ones with the smallest hashes."""
AT_ONCE = 64
"""Items that are scored together."""

Wins = tuple[Bytes, Bytes, Bytes]
"""As `wins_file` takes them: shares (n,), segments and their shares (n, MOST_SEGMENTS)."""


def asked_users(user_ids: Sequence[str]) -> list[int]:
    """The places of the users that are asked."""
    every = range(len(user_ids))
    if len(user_ids) <= MOST_USERS:
        return list(every)
    return sorted(sorted(every, key=lambda one: _hash(user_ids[one]))[:MOST_USERS])


def count_wins(
    personas: Floats,
    starts: Sequence[int],
    users: Floats,
    segments: npt.NDArray[np.intp],
    smallest: int,
    progress: Progress = SILENT,
) -> Wins:
    """Count for each persona the users with the largest score for it among those of its item.

    personas: (n, dim), those of an item side by side. starts: where each item begins. users: (m,
    dim). segments: (m,), the place of each user's segment. smallest: users from which a share is
    told; nobody is told, too.
    """
    n, kinds = len(personas), int(segments.max()) + 1
    shares = np.full(n, NOT_TOLD, np.uint8)
    places = np.full((n, MOST_SEGMENTS), NOT_TOLD, np.uint8)
    parts = np.full((n, MOST_SEGMENTS), NOT_TOLD, np.uint8)
    progress.start("counting wins", len(starts))
    for first, last, counts in _counted(personas, starts, users, segments, kinds):
        total = counts.sum(axis=1)
        told = (total >= smallest) | (total == 0)
        shares[first:last][told] = np.rint(100 * total[told] / len(users))
        for row in np.flatnonzero(total >= smallest).tolist():
            best = np.argsort(-counts[row], kind="stable")[:MOST_SEGMENTS]
            best = best[counts[row, best] >= smallest]
            places[first + row, : len(best)] = best
            parts[first + row, : len(best)] = np.rint(100 * counts[row, best] / total[row])
        progress.advance(1)
    return shares, places, parts


def _counted(
    personas: Floats,
    starts: Sequence[int],
    users: Floats,
    segments: npt.NDArray[np.intp],
    kinds: int,
) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """(first persona, end, users by persona and segment (k, kinds)) of each item."""
    ends = [*starts[1:], len(personas)]
    for at in range(0, len(starts), AT_ONCE):
        some = list(zip(starts[at : at + AT_ONCE], ends[at : at + AT_ONCE], strict=True))
        begin, end = some[0][0], some[-1][1]
        scores = users @ personas[begin:end].T
        for first, last in some:
            winners = scores[:, first - begin : last - begin].argmax(axis=1)
            found = np.bincount(winners * kinds + segments, minlength=(last - first) * kinds)
            yield first, last, found.reshape(last - first, kinds)


def forget_wins(folder: Path) -> int:
    """Delete what was counted: erased users are in it. Returns the number of files."""
    gone = 0
    with storage_errors(folder / MAPS, cannot="be changed"):
        for path in sorted((folder / MAPS).glob(f"*{SUFFIX}")):
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def _hash(user_id: str) -> bytes:
    return hashlib.blake2b(user_id.encode(), digest_size=8).digest()
