"""Files of records beside the artifacts that belong to a version: named by what they hold.

The same records have the same name, so a version that keeps the name finds what it was made with.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.errors import InputError

_NAME = re.compile(r"[0-9a-f]{32}")

Records = npt.NDArray[np.void]


def record_file(records: Records) -> tuple[str, bytes]:
    """The name, without a suffix, and the content of the file of records, (n,)."""
    file = io.BytesIO()
    np.save(file, records)
    content = file.getvalue()
    return hashlib.sha256(content).hexdigest()[:32], content


def read_records(
    folder: Path, name: str, suffix: str, kind: np.dtype[Any], sentence: str
) -> Records:
    """The records of a file, (n,) of this kind, read from it where they are needed.

    Raises InputError with the sentence if the folder has no such file, or it is broken.
    """
    if not _NAME.fullmatch(name):
        raise InputError(sentence)
    try:
        records: Records = np.load(folder / f"{name}{suffix}", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        raise InputError(sentence) from None
    if records.dtype != kind or records.ndim != 1:
        raise InputError(sentence)
    return records
