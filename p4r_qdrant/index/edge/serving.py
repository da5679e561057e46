"""A note in the folder of an embedded index: the address of the `p4r serve` that uses it.

Only one process can open the folder. Other processes read here where the service listens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p4r_qdrant.index.processes import is_running
from p4r_qdrant.whole_files import write_whole

SERVING = "serving.json"


@contextmanager
def noted(folder: Path, address: str) -> Iterator[None]:
    """Note the address of a service while it runs."""
    path = folder / SERVING
    with suppress(OSError):  # a note is not worth an error
        write_whole(path, json.dumps({"address": address, "process": os.getpid()}))
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def address_at(folder: Path) -> str:
    """The address of the service that runs from this folder; empty if none is known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads((folder / SERVING).read_bytes())
        if is_running(int(note["process"])):
            return str(note["address"])
    return ""
