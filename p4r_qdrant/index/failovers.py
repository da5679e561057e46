"""How many calls of this process went to another node, because theirs did not answer."""

from __future__ import annotations

import threading

_lock = threading.Lock()
_count = 0


def note() -> None:
    """Count one."""
    global _count
    with _lock:
        _count += 1


def so_far() -> int:
    """Their number since the process started."""
    return _count
