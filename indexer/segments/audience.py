"""DIR/audience.csv: which users are nearest to which segment.

Users of a segment with fewer than `smallest` of them are in no line, because few can be told apart.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from indexer.artifacts.names import AUDIENCE
from indexer.artifacts.writing import storage_errors
from p4r_qdrant.records import MAX_ID_LENGTH
from p4r_qdrant.whole_files import write_whole

_SIZE = re.compile(r"[0-9]{1,9}")
HEADER = ["segment", "name", "user_id", "smallest"]


def write_audience(folder: Path, rows: Iterable[tuple[str, str, str]], smallest: int) -> int:
    """Write (segment id, its name, user id) of all segments that are large enough.

    Returns the number of users that are left out.
    """
    every = list(rows)
    sizes = Counter(segment for segment, _, _ in every)
    kept = [row for row in every if sizes[row[0]] >= smallest]
    _write(folder / AUDIENCE, [[*row, str(smallest)] for row in kept])
    return len(every) - len(kept)


def erase_from_audience(folder: Path, users: Collection[str]) -> int:
    """Remove users, and all users of a segment that becomes too small; returns the lines removed.

    A file that cannot be understood is removed as a whole: it might name them.
    """
    path = folder / AUDIENCE
    with storage_errors(path, cannot="be read"):
        if not path.is_file():
            return 0
        text = path.read_bytes().decode(errors="replace")
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        rows = []
    lines = rows[1:]
    if rows[:1] != [HEADER] or not all(map(_is_line, lines)):
        with storage_errors(path, cannot="be removed"):
            path.unlink(missing_ok=True)
        return len(lines)
    left = [row for row in lines if row[2] not in users]
    sizes = Counter(row[0] for row in left)
    kept = [row for row in left if sizes[row[0]] >= int(row[3])]
    if len(kept) < len(lines):
        _write(path, kept)
    return len(lines) - len(kept)


def _is_line(row: Sequence[str]) -> bool:
    return len(row) == 4 and len(row[2]) <= MAX_ID_LENGTH and bool(_SIZE.fullmatch(row[3]))


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *rows])
    with storage_errors(path, kept="nothing was written"):
        write_whole(path, text.getvalue(), private=True)
